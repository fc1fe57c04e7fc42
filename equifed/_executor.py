"""How the clients of a round are run. Nothing here changes what is computed.

A device takes its slots in blocks. Within a block clients run side by side under
`vmap`, their loops as long as the longest of them; blocks follow one another. What the
clients encode is summed as it comes, so that memory does not grow with the cohort,
unless the aggregator wants all of it, or the sum is to be taken in one fixed order.
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree

from ._aggregator import AbstractAggregator
from ._check import check_count, checked
from ._client import AbstractClient, Broadcast
from ._cohort import ClientData, Cohort, NO_CLIENT
from ._contract import check_client, check_encoded
from ._in_order import in_order
from ._loop import fold_range
from ._mesh import AXIS, clients_mesh
from ._metrics import AbstractMetric, add_metrics, Sum
from ._tree import tree_isfinite, tree_where, tree_zeros_like
from ._types import AggregatorState, ClientState


class Executor(eqx.Module):
    """Options of how a round is run: they never change its result.

    **Arguments:**

    - `mesh`: the devices, as a `jax.sharding.Mesh` with an axis `clients`; give the
        loader the same one. `None` runs on the default device. Over any other axis the
        compiler spreads each client's own work, following how the model is sharded.
    - `block_size`: how many clients run side by side on a device. 1 is right for a
        CPU unless the model is tiny (a hundred params: 50 is several times faster); 8
        to 64 fill a GPU. Memory grows with it. With `"auto"`,
        [`equifed.rounds`][] and [`equifed.train`][] time the first round at several
        sizes and take the fastest. As this may differ from run to run, so may the last
        bits of a result, also if it is `ordered` or resumed: give a number for those.
    - `ordered`: the same bits on any number of devices, at the same `block_size`. The
        clients of each device are a program of that device alone, so that all run the
        same machine code, and their messages are summed in the order of the clients'
        numbers. It compiles once for each device, and memory grows with the cohort.
        A round within your own `jit`, `vmap` or `grad`, or on a mesh with other axes,
        is summed in that order too, but is one program, which the compiler may round
        differently in the last bit.
    - `differentiable`: make the round reverse-mode differentiable, by checkpointing
        its loops.
    """

    mesh: Mesh | None = eqx.field(static=True)
    block_size: int | Literal["auto"]
    ordered: bool
    differentiable: bool

    @checked()
    def __init__(
        self,
        *,
        mesh: Mesh | None = None,
        block_size: int | Literal["auto"] = 1,
        ordered: bool = False,
        differentiable: bool = False,
    ):
        self.mesh = None if mesh is None else clients_mesh(mesh)
        self.block_size = block_size
        self.ordered = ordered
        self.differentiable = differentiable

    def __check_init__(self):
        if self.block_size != "auto":
            check_count("block_size", self.block_size, most=NO_CLIENT)

    @property
    def num_devices(self) -> int:
        return 1 if self.mesh is None else self.mesh.shape[AXIS]

    def check(self, cohort: Cohort) -> None:
        if self.block_size == "auto":
            raise ValueError(
                "`block_size='auto'` is measured by `rounds` and `train`. A single "
                "`algorithm.round` needs a number."
            )
        if cohort.num_devices != self.num_devices:
            raise ValueError(
                f"The cohort was planned for {cohort.num_devices} devices, but the "
                f"executor runs on {self.num_devices}. Give the same mesh to "
                "`Loader(..., mesh=mesh)` and to `Executor(mesh=mesh)`."
            )

    def run(
        self,
        client: AbstractClient,
        aggregator: AbstractAggregator,
        broadcast: Broadcast,
        cohort: Cohort,
        client_states: ClientState,
        aggregator_state: AggregatorState,
        *,
        key: PRNGKeyArray,
    ) -> tuple[PyTree, ClientState, dict[str, AbstractMetric]]:
        """Runs every client of the cohort.

        **Returns:**

        What the aggregator's `decode` wants, the cohort's new client states with the
        axes (slots, ...) in the order of `cohort.index.reshape(-1)`, and the metrics
        summed over the cohort.
        """
        run = _Run(client, aggregator, broadcast, aggregator_state, key)
        keep = aggregator.gathers or self.ordered
        arrays, static = eqx.partition(run, eqx.is_array)

        def device(
            arrays: PyTree, states: ClientState, cohort: Cohort
        ) -> tuple[PyTree, PyTree, ClientState]:
            run = eqx.combine(arrays, static)
            total, kept, states = self._device(run, cohort, states, keep=keep)
            if self.mesh is not None:
                total = jax.lax.psum(total, AXIS)
            return total, kept, states

        def first_device(arrays, states, cohort):
            return device(arrays, states, jtu.tree_map(lambda x: x[0], cohort))

        if self.mesh is None:
            total, kept, states = first_device(arrays, client_states, cohort)
        elif self.differentiable:
            # Equinox's loop cannot be differentiated inside `shard_map`. The compiler
            # splits this over the devices as well, but all wait for the longest.
            split = jax.vmap(
                device, in_axes=(None, None, 0), out_axes=(None, 0, 0), axis_name=AXIS
            )
            total, kept, states = split(arrays, client_states, cohort)
            kept, states = jtu.tree_map(
                lambda x: x.reshape(-1, *x.shape[2:]), (kept, states)
            )
        else:
            whole, split = PartitionSpec(), PartitionSpec(AXIS)
            # Without the check of which values vary over devices: were the model
            # known to be the same on all of them, `jax.grad` inside a client would
            # sum its gradients over the devices.
            mapped = jax.shard_map(
                first_device,
                mesh=self.mesh,
                in_specs=(whole, whole, split),
                out_specs=(whole, split, split),
                axis_names={AXIS},
                check_vma=False,
            )
            total, kept, states = mapped(arrays, client_states, cohort)
        if keep:
            index = cohort.index.reshape(-1)
            slots = index.size
            capacity = slots if aggregator.gathers else None
            total = in_order(kept, index, self.mesh, capacity=capacity, count=slots)
        encoded, metrics = total
        return encoded, states, metrics

    def messages(
        self,
        client: AbstractClient,
        aggregator: AbstractAggregator,
        broadcast: Broadcast,
        cohort: Cohort,
        client_states: ClientState,
        aggregator_state: AggregatorState,
        *,
        key: PRNGKeyArray,
    ) -> tuple[PyTree, ClientState]:
        """Runs the clients of one device's share of a cohort, on one device.

        **Returns:**

        For each slot the encoded message and the metrics, and the new client states.
        """
        run = _Run(client, aggregator, broadcast, aggregator_state, key)
        share = jtu.tree_map(lambda x: x[0], cohort)
        _, kept, states = self._device(run, share, client_states, keep=True)
        return kept, states

    def _device(self, run: "_Run", cohort: Cohort, states: ClientState, *, keep: bool):
        """All the slots of one device, block after block."""
        size = self.block_size
        assert size != "auto"
        num_slots = cohort.index.shape[0]
        num_blocks = -(-num_slots // size)
        slots = (cohort.start, cohort.stop, cohort.first, cohort.num_examples)
        fill = num_blocks * size - num_slots
        slots = jtu.tree_map(lambda x: jnp.pad(x, (0, fill)), slots)
        index = jnp.pad(cohort.index, (0, fill), constant_values=NO_CLIENT)

        def one(slot, index):
            start, stop, first, num_examples = slot
            data = ClientData(
                cohort.examples,
                cohort.order,
                start,
                stop,
                first,
                num_examples,
                differentiable=self.differentiable,
            )
            return run.client_round(data, index, states)

        def block(b):
            slot, i = jtu.tree_map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, b * size, size),
                (slots, index),
            )
            if size == 1:
                slot, i = jtu.tree_map(lambda x: x[0], (slot, i))
                return jtu.tree_map(lambda x: x[None], one(slot, i))
            return jax.vmap(one)(slot, i)

        def body(b, carry):
            total, kept, states = carry
            summand, new_states = block(b)
            if keep:
                kept = _write(kept, summand, b * size)
            else:
                total = jtu.tree_map(lambda t, x: t + x.sum(0), total, summand)
            return total, kept, _write(states, new_states, b * size)

        summand, new_states = jax.eval_shape(block, jnp.zeros((), jnp.int32))
        zeros = tree_zeros_like(_resize(summand, (num_blocks * size,)))
        carry = (
            None if keep else tree_zeros_like(_resize(summand, ())),
            zeros if keep else None,
            tree_zeros_like(_resize(new_states, (num_blocks * size,))),
        )
        # Empty slots come last: they are not run at all.
        used = jnp.max(jnp.where(index != NO_CLIENT, jnp.arange(1, index.size + 1), 0))
        count = (used + size - 1) // size
        total, kept, new_states = fold_range(
            body, carry, count, num_blocks, differentiable=self.differentiable
        )
        cut = jtu.tree_map(lambda x: x[:num_slots], (kept, new_states))
        return total, *cut


class _Run(eqx.Module):
    """What all clients of a round have in common."""

    client: AbstractClient
    aggregator: AbstractAggregator
    broadcast: Broadcast
    aggregator_state: AggregatorState
    key: PRNGKeyArray

    def client_round(self, data: ClientData, index: Array, states: ClientState) -> Any:
        present = index != NO_CLIENT
        train_key, encode_key = jr.split(jr.fold_in(self.key, index))
        state = jtu.tree_map(lambda x: x.at[index].get(mode="clip"), states)
        out = self.client.round(self.broadcast, data, state, key=train_key)
        message, new_state, metrics = check_client(self.client, out, state)
        encoded = self.aggregator.encode(message, self.aggregator_state, key=encode_key)
        check_encoded(self.aggregator, encoded)
        # A client that diverged forgets this round, or it would never come back.
        finite = tree_isfinite((message, new_state))
        state = tree_where(finite, new_state, state)
        # Nor do its metrics count, or every mean over the cohort would be NaN.
        metrics = _only_if(present & finite, metrics)
        nonfinite = Sum((present & ~finite).astype(jnp.float32))
        metrics = add_metrics(metrics, {"nonfinite": nonfinite})
        return (_only_if(present, encoded), metrics), state


def _only_if(condition: Array, x: PyTree) -> PyTree:
    return jtu.tree_map(lambda x: jnp.where(condition, x, jnp.zeros_like(x)), x)


def _resize(x: PyTree, axes: tuple[int, ...]) -> PyTree:
    """The shapes of `x` with its leading axis replaced."""
    return jtu.tree_map(
        lambda x: jax.ShapeDtypeStruct((*axes, *x.shape[1:]), x.dtype), x
    )


def _write(buffer: PyTree, x: PyTree, place: Array | int) -> PyTree:
    write: Callable = jax.lax.dynamic_update_slice_in_dim
    return jtu.tree_map(lambda b, x: write(b, x, place, 0), buffer, x)
