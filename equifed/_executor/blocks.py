"""How the clients of one device are run.

A device takes its slots in blocks. Within a block clients run side by side under
`vmap`, their loops as long as the longest of them; blocks follow one another. What the
clients encode is summed as it comes, so that memory does not grow with the cohort,
unless the aggregator wants all of it, or the sum is to be taken in one fixed order.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from .._aggregator import AbstractAggregator
from .._bits import Bits, DOWN, each_of, payload_bits, UP
from .._client import AbstractClient
from .._cohort import ClientData, Cohort, NO_CLIENT
from .._contract import check_client, check_encoded
from .._debug import noted_in
from .._loop import fold_range, traced_once
from .._metrics import add_metrics, Sum
from .._tree import tree_isfinite, tree_where, tree_zeros_like
from .._types import AggregatorState, ClientState
from .._wire import Broadcast, Message
from .executor import Executor
from .statistics import with_statistics


_CODED = ("bits_up_entropy", "bits_up_arithmetic")


class Pass(eqx.Module):
    """What all clients of a pass over the cohort have in common."""

    client: AbstractClient
    aggregator: AbstractAggregator
    broadcast: Broadcast
    state: AggregatorState
    round: Int[Array, ""]
    key: PRNGKeyArray
    ledger: Int[Array, "devices slots"] | None = None
    """The clients' numbers by the round's slots, if each one's bits are asked for."""

    def one(self, data: ClientData, index: Int[Array, ""], state: ClientState) -> Any:
        """What one client sends, encoded, with its metrics; and its new state."""
        present = index != NO_CLIENT
        train_key, encode_key = jr.split(jr.fold_in(self.key, index))
        with noted_in(self.client, "round"):
            out = self.client.round(self.broadcast, data, state, key=train_key)
        message, new_state, metrics = check_client(self.client, out, state)
        message = with_statistics(self.client, message, self.broadcast)
        with noted_in(self.aggregator, "encode"):
            out = self.aggregator.encode(message, self.state, key=encode_key)
        encoded, measured = check_encoded(self.aggregator, out)
        metrics, bits = self._count(message, metrics, measured)
        # A client that diverged forgets this round, or it would never come back.
        heard, kept = tree_isfinite(message), tree_isfinite(new_state)
        finite = heard & kept
        state = tree_where(present & finite, new_state, state)
        # Nor do its metrics count, or every mean over the cohort would be NaN. They may
        # be of a training that did not diverge: what it keeps is of another one, then.
        counts = heard & (kept | tree_isfinite(metrics))
        metrics = only_if(present & counts, metrics)
        nonfinite = Sum((present & ~finite).astype(jnp.float32))
        metrics = add_metrics(metrics, {"nonfinite": nonfinite})
        metrics = add_metrics(metrics, only_if(present, bits))
        if self.ledger is not None:
            metrics = add_metrics(metrics, each_of(metrics, self.ledger == index))
        return (only_if(present, encoded), metrics), state

    def _count(self, message: Message, metrics: Any, measured: Any) -> tuple[Any, Any]:
        """The metrics of one client, and its bits up and down.

        Whoever compresses says how many bits are left, the last one counts; what is not
        compressed is sent as it is. Of `rest` a client has its copy.
        """
        plain = Bits(payload_bits((message.payload, message.stats, message.weight)))
        up = measured.get(UP, metrics.get(UP, plain))
        coded = [name for name in _CODED if name in measured]
        metrics = {n: x for n, x in metrics.items() if n not in (UP, *coded)}
        measured = {n: x for n, x in measured.items() if n != UP}
        sent = self.broadcast
        down = Bits(payload_bits((sent.params, sent.shared, sent.statistics)))
        # A message that counts as absent need not be sent; it was asked for.
        up = only_if(message.weight > 0, up)
        return add_metrics(metrics, measured), {UP: up, DOWN: down}


def run_device(
    work: Pass, executor: Executor, cohort: Cohort, states: ClientState, *, keep: bool
) -> tuple[PyTree, PyTree, ClientState]:
    """All the slots of one device, block after block.

    **Arguments:**

    - `cohort`: the device's share, without the axis over devices.
    - `states`: the slots' states, stacked.
    - `keep`: whether what is encoded is kept for each slot, or summed.

    **Returns:**

    The sum or `None`, what was kept or `None`, and the slots' new states.
    """
    size = executor.block_size
    assert size != "auto"
    num_slots = cohort.index.shape[0]
    num_blocks = -(-num_slots // size)
    # The last block is whole, too: XLA would move one that reached beyond the slots
    # back, onto slots that were run.
    fill = num_blocks * size - num_slots
    plan = (cohort.start, cohort.stop, cohort.first, cohort.num_examples, cohort.info)
    plan, states = jtu.tree_map(lambda x: _padded(x, fill), (plan, states))
    index = _padded(cohort.index, fill, NO_CLIENT)

    def one(plan: Any, index: Array, state: ClientState) -> Any:
        start, stop, first, num_examples, info = plan
        data = ClientData(
            cohort.examples,
            cohort.order,
            start,
            stop,
            first,
            num_examples,
            work.round,
            info,
            differentiable=executor.differentiable,
        )
        return work.one(data, index, state)

    def block(b: Array | int, states: ClientState) -> Any:
        slots = _read((plan, index, states), b * size, size)
        if size > 1:
            return jax.vmap(one)(*slots)
        out = one(*jtu.tree_map(lambda x: x[0], slots))
        return jtu.tree_map(lambda x: x[None], out)

    def body(b: Array | int, carry: Any) -> Any:
        total, kept, states = carry
        summand, new_states = block(b, states)
        if keep:
            kept = _write(kept, summand, b * size)
        else:  # By itself `sum` widens small integers; a loop's carry keeps its type.
            total = jtu.tree_map(lambda t, x: t + x.sum(0, x.dtype), total, summand)
        return total, kept, _write(states, new_states, b * size)

    # A number of the cohort, not of the program: cohorts of all sizes share that.
    count = (_used(index != NO_CLIENT) + size - 1) // size
    # The loop begins with zeros of what a block gives, so one is traced before it, and
    # that trace is what it runs.
    block, (summand, _) = traced_once(block, jnp.zeros_like(count), states)
    carry = (
        None if keep else tree_zeros_like(resized(summand, ())),
        tree_zeros_like(resized(summand, (num_blocks * size,))) if keep else None,
        states,
    )
    total, kept, states = fold_range(
        body, carry, count, num_blocks, differentiable=executor.differentiable
    )
    cut = jtu.tree_map(lambda x: x[:num_slots], (kept, states))
    return total, *cut


def _used(present: Bool[Array, " slots"]) -> Int[Array, ""]:
    """How many slots there are up to the last that is not empty: as the empty ones come
    last, they are not run at all."""
    return jnp.max(jnp.where(present, jnp.arange(1, present.size + 1), 0))


def _padded(x: Array, fill: int, value: int = 0) -> Array:
    pads = ((0, fill), *[(0, 0)] * (x.ndim - 1))
    return jnp.pad(x, pads, constant_values=value) if fill else x


def only_if(condition: Array, x: PyTree) -> PyTree:
    return jtu.tree_map(lambda x: jnp.where(condition, x, jnp.zeros_like(x)), x)


def resized(x: PyTree, axes: tuple[int, ...]) -> PyTree:
    """The shapes of `x` with its leading axis replaced."""
    return jtu.tree_map(
        lambda x: jax.ShapeDtypeStruct((*axes, *x.shape[1:]), x.dtype), x
    )


def _read(buffer: PyTree, place: Array | int, size: int) -> PyTree:
    read: Callable = jax.lax.dynamic_slice_in_dim
    return jtu.tree_map(lambda b: read(b, place, size), buffer)


def _write(buffer: PyTree, x: PyTree, place: Array | int) -> PyTree:
    write: Callable = jax.lax.dynamic_update_slice_in_dim
    return jtu.tree_map(lambda b, x: write(b, x, place, 0), buffer, x)
