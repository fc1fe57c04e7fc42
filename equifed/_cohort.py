"""The border between the host and the device.

A round's plan is made on the host, by an [`equifed.data.Loader`][]: which clients take
part, and which examples each of them visits, in which order. It crosses to the device
as a `Cohort`: a pool of examples, and small integer arrays that say for each client
which rows of the pool make up each of its steps. No example is ever padded: a client
that takes 3 steps owns 3 rows of `order`, one that takes 300 owns 300.

On the device the executor cuts a `Cohort` into one `ClientData` for each slot. It is
all that a client sees, and it offers two loops: `fold` over the planned steps (or
`fold_groups`, over several at a time), and `fold_examples` over the client's distinct
examples.
"""

from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from ._check import check_count
from ._debug import noted
from ._loop import fold_range
from ._types import Example


Carry = TypeVar("Carry")

# The client number of an empty slot, and the row number of an empty place in a batch.
NO_CLIENT = int(np.iinfo(np.int32).max)
NO_ROW = -1


class Cohort(eqx.Module):
    """The clients of one round, ragged.

    The leading axis of every array is the device: slot `[d, s]` runs on device `d`.
    A slot is one client's place in the round; a slot whose `index` is `NO_CLIENT` is
    empty and counts as absent. Slots are sorted by their number of steps, longest
    first, with the empty ones last.

    [`equifed.data.Loader`][] builds one for each round, [`equifed.data.cohort`][] a
    single one.
    """

    examples: PyTree[Shaped[Array, "devices rows ..."]]
    """The pool: the whole dataset when resident, this round's rows when streamed."""
    order: Int[Array, "devices steps batch"]
    """Row numbers of the examples of each step; `NO_ROW` where a batch is short."""
    start: Int[Array, "devices slots"]
    """The slot visits `order[d, start:stop]`."""
    stop: Int[Array, "devices slots"]
    first: Int[Array, "devices slots"]
    """The slot's distinct examples are the rows `first:first + num_examples`."""
    num_examples: Int[Array, "devices slots"]
    index: Int[Array, "devices slots"]
    """The number of the client in the population, or `NO_CLIENT`."""
    info: PyTree[Shaped[Array, "devices slots ..."]] = None
    """What else a loader has to say of each slot: a message's staleness, a client's
    domain, the probability that it takes part."""
    mesh: Mesh | None = eqx.field(static=True, default=None)
    """The devices, along the axis `clients`; `None` is the default device alone."""

    @property
    def num_devices(self) -> int:
        return self.index.shape[0]

    @property
    def num_slots(self) -> int:
        """Slots on each device, the empty ones included."""
        return self.index.shape[1]

    @property
    def batch_size(self) -> int:
        return self.order.shape[2]

    @property
    def example(self) -> Example:
        """The shape and dtype of one example."""
        return jtu.tree_map(
            lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), self.examples
        )

    def client(self, slot: int, *, device: int = 0) -> "ClientData":
        """What the client in a slot is given, to work with it outside a round."""
        for name, x, size in (
            ("slot", slot, self.num_slots),
            ("device", device, self.num_devices),
        ):
            if not isinstance(x, jax.core.Tracer):
                check_count(name, x, least=0, most=size - 1)
        place = (device, slot)
        return ClientData(
            jtu.tree_map(lambda x: x[device], self.examples),
            self.order[device],
            self.start[place],
            self.stop[place],
            self.first[place],
            self.num_examples[place],
            info=jtu.tree_map(lambda x: x[place], self.info),
        )


def last_client(cohort: Cohort) -> int:
    """The greatest number of a client in it; -1 if there is none, or if that is not
    known here: while it is traced, or where each process has its own."""
    index = cohort.index
    if isinstance(index, jax.core.Tracer) or not index.is_fully_addressable:
        return -1
    numbers = np.asarray(index)
    return int(np.max(numbers, initial=-1, where=numbers != NO_CLIENT))


class Cohorts(eqx.Module):
    """The cohorts of successive rounds, stacked, for one call that runs them all.

    `cohorts[i]` is the cohort of the `i`-th. Where there are fewer rounds than room,
    the last ones are empty.
    """

    examples: PyTree[Shaped[Array, "..."]]
    """The pool that all rounds share, or, if `pooled`, one for each round, stacked."""
    order: Int[Array, "rounds devices steps batch"]
    start: Int[Array, "rounds devices slots"]
    stop: Int[Array, "rounds devices slots"]
    first: Int[Array, "rounds devices slots"]
    num_examples: Int[Array, "rounds devices slots"]
    index: Int[Array, "rounds devices slots"]
    pooled: bool = eqx.field(static=True)
    info: PyTree[Shaped[Array, "rounds devices slots ..."]] = None
    mesh: Mesh | None = eqx.field(static=True, default=None)

    @property
    def num_rounds(self) -> int:
        return self.index.shape[0]

    def __getitem__(self, i: int | Int[Array, ""]) -> Cohort:
        plan = (self.order, self.start, self.stop)
        slots = (self.first, self.num_examples, self.index)
        examples = self.examples
        if self.pooled:
            examples = jtu.tree_map(lambda x: x[i], examples)
        info = jtu.tree_map(lambda x: x[i], self.info)
        arrays = (x[i] for x in (*plan, *slots))
        return Cohort(examples, *arrays, info=info, mesh=self.mesh)


class ClientData(eqx.Module):
    """One client's share of a round: what `AbstractClient.round` is given.

    Its loops call `step(carry, examples, mask, i)`, where `examples` has a leading
    axis of the batch size, `mask` says which of them count, and `i` is the number of
    the step. Where the mask is false the example is one of the client's own, so that
    whatever is computed from it is as finite as the client's data.
    """

    examples: PyTree[Shaped[Array, "rows ..."]]
    order: Int[Array, "steps batch"]
    start: Int[Array, ""]
    stop: Int[Array, ""]
    first: Int[Array, ""]
    num_examples: Int[Array, ""]
    round: Int[Array, ""] = eqx.field(
        converter=lambda x: jnp.asarray(x, jnp.int32), default=0
    )
    """How many rounds went before this one."""
    info: PyTree[Shaped[Array, "..."]] = None
    """What else the loader says of this client, from the cohort's."""
    differentiable: bool = eqx.field(static=True, default=False)

    @property
    def num_steps(self) -> Int[Array, ""]:
        return self.stop - self.start

    @property
    def weight(self) -> Float[Array, ""]:
        """The number of examples; zero if the client takes no step, whose silence
        should not count as a vote for the model as it is."""
        weight = jnp.where(self.num_steps > 0, self.num_examples, 0)
        return weight.astype(jnp.result_type(float))

    @property
    def batch_size(self) -> int:
        return self.order.shape[1]

    @property
    def example(self) -> Example:
        """The shape and dtype of one example."""
        return jtu.tree_map(
            lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.examples
        )

    def between(self, begin: Int[Array, ""], end: Int[Array, ""]) -> "ClientData":
        """The same client with the steps `begin:end` of its plan alone.

        In its `fold` the number of the step counts from 0 again.
        """
        bounds = (self.start + begin, self.start + end)
        return eqx.tree_at(lambda d: (d.start, d.stop), self, bounds)

    def fold(
        self,
        step: Callable[
            [Carry, Example, Bool[Array, " batch"], Int[Array, ""]],
            Carry,
        ],
        carry: Carry,
    ) -> Carry:
        """Folds `step` over the planned batches, in their order.

        The number of steps is the client's own, known only at run time, so that no
        client pays for a longer one.
        """

        def body(i, carry):
            rows = self.order[self.start + i]
            with noted(lambda: f"It was raised in step {i} (the first is 0)."):
                return step(carry, self._take(rows), rows != NO_ROW, i)

        bound = self.order.shape[0]
        return fold_range(
            body, carry, self.num_steps, bound, differentiable=self.differentiable
        )

    def fold_groups(
        self,
        step: Callable[
            [Carry, Example, Bool[Array, "group batch"], Int[Array, ""]],
            Carry,
        ],
        carry: Carry,
        *,
        size: int,
    ) -> Carry:
        """Folds `step` over groups of `size` successive planned batches, for methods
        that look at several in one step: `examples` and `mask` have a leading axis of
        them, and `i` counts the groups. Batches that are left over at the end are left
        out.
        """
        check_count("size", size)

        def body(i, carry):
            places = self.start + i * size + jnp.arange(size, dtype=jnp.int32)
            rows = self.order[places]
            with noted(lambda: f"It was raised in group {i} (the first is 0)."):
                return step(carry, self._take(rows), rows != NO_ROW, i)

        count, bound = self.num_steps // size, self.order.shape[0] // size
        return fold_range(body, carry, count, bound, differentiable=self.differentiable)

    def fold_examples(
        self,
        step: Callable[
            [Carry, Example, Bool[Array, " batch"], Int[Array, ""]],
            Carry,
        ],
        carry: Carry,
        *,
        batch_size: int,
    ) -> Carry:
        """Folds `step` once over the client's distinct examples, as they are stored.

        For full gradients and evaluations, whatever the plan says.
        """
        check_count("batch_size", batch_size)

        def body(i, carry):
            place = i * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
            mask = place < self.num_examples
            rows = jnp.where(mask, self.first + place, NO_ROW)
            return step(carry, self._take(rows), mask, i)

        num_batches = (self.num_examples + batch_size - 1) // batch_size
        bound = -(-jtu.tree_leaves(self.examples)[0].shape[0] // batch_size)
        return fold_range(
            body, carry, num_batches, bound, differentiable=self.differentiable
        )

    def _take(self, rows: Int[Array, "*batch"]) -> Example:
        # The client's first row stands in for an empty place: always a real example.
        rows = jnp.where(rows == NO_ROW, self.first, rows)
        return jtu.tree_map(lambda x: x.at[rows].get(mode="clip"), self.examples)
