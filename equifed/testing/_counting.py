"""Laws of what counts: each example of a batch once, each client by its message, and
what is not there not at all.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

from .._aggregator import AbstractAggregator
from .._algorithm import AbstractAlgorithm
from .._algorithm.around import _AbstractWithItsState
from .._bits import Bits, DOWN, EACH, UP
from .._cohort import Cohort, NO_CLIENT, NO_ROW
from .._executor.blocks import Pass
from .._executor.mapping import run_pass
from .._wire import Message
from ..data import Epochs
from ._claim import assert_same, law
from ._clients import SIZES
from ._setup import BATCHING, KEY, quiet, quiet_loss, Result, Setup


@law
def empty_places(here: Setup) -> None:
    """The empty places of a short batch count for nothing.

    `step(carry, examples, mask, i)` is given `mask` to say which examples count: sum
    over those alone, `jnp.sum(jnp.where(mask, losses, 0))`, and divide by their number,
    `jnp.maximum(jnp.sum(mask), 1)`; likewise for metrics.
    """
    # A place at both ends, so that all batches are short.
    wide = Epochs(BATCHING.num_epochs, batch_size=BATCHING.batch_size + 2)
    algorithm = here.build(quiet_loss, wide)

    def widen(cohort: Cohort) -> Cohort:
        order = jnp.pad(cohort.order, ((0, 0),) * 2 + ((1, 1),), constant_values=NO_ROW)
        return eqx.tree_at(lambda c: c.order, cohort, order)

    got = here.run(widen, algorithm=algorithm)
    assert_same(got, here.expected_quiet, what="With more empty places in each batch")


# One has no examples; the other has, and no full batch of them.
SILENT = tuple(i for i, n in enumerate(SIZES) if n in (0, 7))


def _silence(cohort: Cohort) -> Cohort:
    """The cohort in which these take no step."""
    silent = jnp.isin(cohort.index, jnp.asarray(SILENT))
    stop = jnp.where(silent, cohort.start, cohort.stop)
    return eqx.tree_at(lambda c: c.stop, cohort, stop)


@law
def silent_clients(here: Setup) -> None:
    """A client that takes no step counts as absent.

    The weight of its message must be 0: use `data.weight`, or multiply with it. An
    aggregator must not count messages of weight 0.
    """
    numbers = jnp.asarray(SILENT)

    def remove(cohort: Cohort) -> Cohort:
        silent = jnp.isin(cohort.index, numbers)
        index = jnp.where(silent, NO_CLIENT, cohort.index)
        return eqx.tree_at(lambda c: c.index, cohort, index)

    def others(result: Result) -> PyTree:
        """What a client keeps for itself is its own affair; the model was sent to it
        all the same."""
        s, metrics = result
        metrics = {name: x for name, x in metrics.items() if name != DOWN}
        keep = jtu.tree_map(lambda x: jnp.delete(x, numbers, axis=0), s.clients)
        s = dataclasses.replace(s, clients=keep)
        return s, metrics

    got, expected = here.run(_silence), here.run(lambda c: remove(_silence(c)))
    what = "With clients that take no step"
    assert_same(others(got), others(expected), what=what)


@law
def absent_messages(here: Setup) -> None:
    """A message of weight 0 counts as absent, whatever it holds.

    In the aggregator's `encode` (in `decode`, if it gathers), take
    `jnp.where(weight > 0, x, 0)` before anything is multiplied or compared: zero times
    NaN is not zero.
    """
    (after, metrics), _ = _spoiled(here)
    got = after, {n: x for n, x in metrics.items() if not n.startswith("ledger_")}
    what = "With NaN in the messages of weight 0"
    assert_same(got, here.run(lambda c: quiet(_silence(c))), what=what)


@law
def ledger(here: Setup) -> None:
    """What the clients send is counted in every pass, and known of each.

    A step reports the bits of all its passes: `add_bits(last.metrics, first.metrics)`;
    to what it counts by itself it adds `clients.bits(name, each)`.
    """
    (_, metrics), counted = _spoiled(here)
    got, number = int(metrics[UP]), counted[1]
    assert got == number, (
        f"`metrics[{UP!r}]` is {got} instead of {number}, what the messages of the "
        "round's passes have."
    )
    for name in (UP, DOWN):
        total, each = int(metrics[name]), int(metrics[EACH[name]].sum())
        assert each == total, (
            f"`metrics[{name!r}]` is {total}, and what is known of each client is "
            f"{each} together."
        )


def _spoiled(here: Setup) -> tuple[Result, Counter[int]]:
    """What two laws look at: the result with NaN in the messages of weight 0, and the
    bits that were sent in each round."""
    if here.spoiled is None:
        sent: Counter[int] = Counter()

        def note(round: Array, digits: Array) -> None:
            bits = eqx.tree_at(lambda b: b.digits, Bits(0), np.asarray(digits))
            sent[int(round)] += int(bits)

        algorithm = _Spoiled(here.quiet, note)
        result = here.run(lambda c: quiet(_silence(c)), algorithm=algorithm)
        jax.effects_barrier()
        here.spoiled = result, sent
    return here.spoiled


class _Spoiled(_AbstractWithItsState):
    """The same algorithm, whose messages of weight 0 are NaN on their way to the
    aggregator, in every pass, of each of which it notes the bits."""

    algorithm: AbstractAlgorithm
    note: Callable[[Array, Array], None]

    def __init__(
        self, algorithm: AbstractAlgorithm, note: Callable[[Array, Array], None]
    ):
        self.algorithm, self.note = algorithm, note

    def begin(self, params, *, num_clients, key):
        return self.algorithm.begin(params, num_clients=num_clients, key=key)

    def step(self, state, clients, *, key):
        def run(work: Pass, *rest: Any) -> tuple[PyTree, PyTree]:
            aggregator = _SpoilsAbsent(work.aggregator)
            work = dataclasses.replace(work, aggregator=aggregator)
            (encoded, metrics), states = run_pass(work, *rest)
            # A pass may lie inside of a loop, which no traced number leaves.
            jax.debug.callback(self.note, work.round, metrics[UP].digits)
            return (encoded, metrics), states

        # As a `Ledger` asks.
        clients = dataclasses.replace(clients, _run=run, _ledger=clients.index)
        return self.algorithm.step(state, clients, key=key)


class _SpoilsAbsent(AbstractAggregator):
    """Makes NaN of what is in a message of weight 0, before another sees it."""

    aggregator: AbstractAggregator

    @property
    def gathers(self):
        return self.aggregator.gathers

    def init(self, payload):
        return self.aggregator.init(payload)

    def encode(self, message, state, *, key):
        def spoil(x: Array) -> Array:
            known = jnp.issubdtype(x.dtype, jnp.inexact)
            return jnp.where(message.weight > 0, x, jnp.nan) if known else x

        payload, stats = jtu.tree_map(spoil, (message.payload, message.stats))
        message = Message(payload, message.weight, stats)
        return self.aggregator.encode(message, state, key=key)

    def decode(self, encoded, state, *, key):
        return self.aggregator.decode(encoded, state, key=key)


@law
def nobody(here: Setup) -> None:
    """A round in which nobody takes part leaves all as it was, but for its number.

    The aggregate's `count` is the number of messages whose weight is not 0.
    """

    def leave(cohort: Cohort) -> Cohort:
        nobody = jnp.full_like(cohort.index, NO_CLIENT)
        return eqx.tree_at(lambda c: c.index, cohort, nobody)

    before, _ = here.expected
    cohort = leave(here.cohort(2))
    after, metrics = here.algorithm.round(before, cohort, key=jr.key(KEY))
    counted = eqx.tree_at(lambda s: s.round, before, before.round + 1)
    assert_same((after, None), (counted, None), 0.0, what="After a round of nobody")
    count = float(metrics["clients"])
    assert count == 0, f"`metrics['clients']` is {count:g} instead of 0."


@law
def metrics_are_means(here: Setup) -> None:
    """What is reported is the mean over all visits of examples.

    Metrics are summed over the examples that `mask` keeps, over steps and over clients;
    `Average(total, weight)` is divided at the very end.
    """
    _, metrics = here.expected
    needed = {"loss", "y", "clients", "nonfinite", "nonfinite_model"}
    missing = needed - set(metrics)
    names = ", ".join(map(repr, sorted(missing)))
    assert not missing, (
        f"The metrics of a round lack {names}: what the loss reports is to be summed "
        "over the steps, and returned by the client."
    )
    # Whole epochs visit every example equally often, so that this mean is known.
    mean = np.mean(np.asarray(here.loader.dataset.columns["y"]))
    clients = sum(size > 0 for size in SIZES)
    for name, number, what in (
        ("y", mean, "the mean over all visits of examples"),
        ("clients", clients, "the number of messages that count"),
        ("nonfinite", 0, "the number of messages that are not finite"),
        ("nonfinite_model", 0, "as the model is finite"),
    ):
        got = float(metrics[name])
        assert np.isclose(got, number, rtol=1e-5, atol=1e-5), (
            f"`metrics[{name!r}]` is {got:.7g} instead of {number:.7g}, {what}."
        )
    assert bool(jnp.isfinite(metrics["loss"])), "The mean loss is not finite."
