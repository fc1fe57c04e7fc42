"""The clients of a round, as an algorithm's `step` has them.

One call of them is one pass: each client is sent the broadcast, trains or measures, and
answers; the answers become one aggregate. A step may take as many passes as it likes,
of some of the clients or of all.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from .._aggregator import AbstractAggregator
from .._bits import add_bits, Bits, DOWN, EACH, SENT, UP
from .._client import AbstractClient
from .._cohort import Cohort, NO_CLIENT
from .._contract import check_decoded
from .._debug import noted_in
from .._metrics import AbstractMetric, add_metrics, Sum
from .._types import AggregatorState, ClientState, Example
from .._wire import Aggregate, Broadcast
from .blocks import Pass
from .executor import Executor
from .mapping import run_pass
from .statistics import without_statistics


class Outcome(eqx.Module):
    """What comes of one pass."""

    aggregate: Aggregate
    clients: ClientState
    """The slots' new states. Those of clients that were not asked, or whose message or
    state is not finite, are as they were."""
    aggregator: AggregatorState
    metrics: dict[str, AbstractMetric]
    """Those of the clients and of the aggregator, `clients` (the number of messages)
    and `nonfinite` (the number of clients whose message or state was not finite)."""
    statistics: PyTree = None
    """What the broadcast's `statistics` have become, averaged over the messages."""


Run = Callable[[Pass, Executor, Cohort, ClientState], tuple[PyTree, ClientState]]
Replaced = Callable[[Int[Array, " messages"], PyTree, Bool[Array, " messages"]], None]


class Participants(eqx.Module):
    """The clients that take part in a round. Call them to make a pass."""

    executor: Executor
    cohort: Cohort
    round: Int[Array, ""]
    """How many rounds went before this one."""
    _run: Run = eqx.field(static=True, default=run_pass)
    _ledger: Int[Array, "devices slots"] | None = None
    _replaced: Replaced | None = eqx.field(static=True, default=None)
    """Told of messages that are sent in place of those of the pass just made: whose
    they are, their payloads, and which count."""

    @property
    def index(self) -> Int[Array, "devices slots"]:
        """The clients' numbers; the greatest integer of all in an empty slot."""
        return self.cohort.index

    @property
    def present(self) -> Bool[Array, "devices slots"]:
        return self.index != NO_CLIENT

    @property
    def info(self) -> PyTree:
        """What the loader says of each slot beside its examples."""
        return self.cohort.info

    @property
    def example(self) -> Example:
        """The shape and dtype of one example."""
        return self.cohort.example

    def only(self, chosen: Bool[Array, "devices slots"]) -> "Participants":
        """Some of them: the others' slots count as empty, and are not trained.

        **Arguments:**

        - `chosen`: which, as `present` says who is there.

        **Raises:**

        `TypeError` for numbers, or another shape.
        """
        array = jnp.asarray(chosen)
        if array.dtype != bool or array.shape != self.index.shape:
            raise TypeError(
                "`clients.only` takes a boolean for each slot, of the shape "
                f"{self.index.shape}, got {array.dtype} of the shape {array.shape}. "
                "Compare with something, or take a rank: `clients.index < 10`."
            )
        cohort = self.cohort
        cohort = dataclasses.replace(
            cohort,
            index=jnp.where(chosen, cohort.index, NO_CLIENT),
            stop=jnp.where(chosen, cohort.stop, cohort.start),
            num_examples=jnp.where(chosen, cohort.num_examples, 0),
        )
        return dataclasses.replace(self, cohort=cohort)

    def __call__(
        self,
        client: AbstractClient,
        aggregator: AbstractAggregator,
        broadcast: Broadcast,
        client_states: ClientState = None,
        aggregator_state: AggregatorState = None,
        *,
        key: PRNGKeyArray,
    ) -> Outcome:
        """Makes one pass.

        **Arguments:**

        - `client`: what each of them does.
        - `aggregator`: how their messages become one.
        - `broadcast`: what is sent to all of them.
        - `client_states`: the slots' states, with leading axes (devices, slots): the
            step's `state.clients`, a part of it, or arrays like `present`. The client
            must return what it is given, in structure, shape and dtype.
        - `aggregator_state`: the aggregator's.
        - `key`: of this pass. Every client's own follows from it and its number.
        """
        work = Pass(
            *(client, aggregator, broadcast, aggregator_state, self.round, key),
            ledger=self._ledger,
        )
        (encoded, metrics), states = self._run(
            work, self.executor, self.cohort, client_states
        )
        # No client has this number.
        decode_key = jr.fold_in(key, NO_CLIENT)
        with noted_in(aggregator, "decode"):
            out = aggregator.decode(encoded, aggregator_state, key=decode_key)
        aggregate, new_state, measured = check_decoded(
            aggregator, out, aggregator_state
        )
        # A server that answers before it hears all counts what went to and fro.
        others = {name: x for name, x in measured.items() if name not in SENT}
        who = type(aggregator).__name__
        sent = [self._decoded(n, x, who) for n, x in measured.items() if n in SENT]
        metrics = add_bits(metrics, *sent)
        metrics = add_metrics(metrics, others)
        metrics = add_metrics(metrics, {"clients": Sum(aggregate.count)})
        aggregate, statistics = without_statistics(aggregator, aggregate, broadcast)
        return Outcome(aggregate, states, new_state, metrics, statistics)

    def bits(self, name: str, each: Bits) -> dict[str, AbstractMetric]:
        """Bits that a step counts by itself, as metrics for [`equifed.add_bits`][].

        **Arguments:**

        - `name`: `"bits_up"` or `"bits_down"`.
        - `each`: how many of each slot, in an array like `present`.

        **Raises:**

        `ValueError` for another name, or another shape.
        """
        if name not in (UP, DOWN) or each.shape != self.index.shape:
            raise ValueError(
                f"`clients.bits` takes {UP!r} or {DOWN!r} and a number for each slot, "
                f"of the shape {self.index.shape}, got {name!r} and the shape "
                f"{each.shape}."
            )
        total: dict[str, AbstractMetric] = {name: each.sum()}
        return total if self._ledger is None else {**total, EACH[name]: each}

    def _decoded(
        self, name: str, sent: AbstractMetric, who: str
    ) -> dict[str, AbstractMetric]:
        """What an aggregator counts, of all messages or, in the clients' order, of
        each."""
        if not isinstance(sent, Bits) or sent.ndim == 0:
            if self._ledger is not None:
                raise ValueError(
                    f"`{who}.decode` counts the `{name}` of all messages together, and "
                    "`Ledger` asks for those of each: report a `Bits` with an axis "
                    "over the messages."
                )
            return {name: sent}
        slots, size = self.index, self.index.size
        order = jnp.argsort(slots.reshape(-1), stable=True)[: sent.shape[0]]
        digits = jnp.zeros((size, 3), sent.digits.dtype)
        digits = digits.at[order].set(sent.digits[:size])
        digits = digits.reshape(*slots.shape, 3)
        return self.bits(name, eqx.tree_at(lambda b: b.digits, sent, digits))
