"""Laws of what counts: each example of a batch once, each client by its message, and
what is not there not at all.
"""

import dataclasses
from collections import Counter

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .._bits import DOWN, EACH, UP
from .._cohort import Cohort, NO_CLIENT
from ._at_once import hold_at_once, WIDE, widen
from ._claim import assert_same, law
from ._clients import SIZES
from ._losses import quiet_loss
from ._setup import KEY, quiet, Result, Setup
from ._spoiled import Sent, silence, SILENT, spoiled


@law
def empty_places(here: Setup) -> None:
    """The empty places of a short batch count for nothing.

    `step(carry, examples, mask, i)` is given `mask` to say which examples count: sum
    over those alone, `jnp.sum(jnp.where(mask, losses, 0))`, and divide by their number,
    `jnp.maximum(jnp.sum(mask), 1)`; likewise for metrics.
    """
    if hold_at_once(here):
        return
    got = here.run(widen, algorithm=here.build(quiet_loss, WIDE))
    assert_same(got, here.expected_quiet, what="With more empty places in each batch")


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
        metrics = {name: x for name, x in metrics.items() if not name.startswith(DOWN)}
        keep = jtu.tree_map(lambda x: jnp.delete(x, numbers, axis=0), s.clients)
        s = dataclasses.replace(s, clients=keep)
        return s, metrics

    got, expected = here.run(silence), here.run(lambda c: remove(silence(c)))
    what = "With clients that take no step"
    assert_same(others(got), others(expected), what=what)


@law
def absent_messages(here: Setup) -> None:
    """A message of weight 0 counts as absent, whatever it holds.

    In the aggregator's `encode` (in `decode`, if it gathers), take
    `jnp.where(weight > 0, x, 0)` before anything is multiplied or compared: zero times
    NaN is not zero.
    """
    if hold_at_once(here):
        return
    (after, metrics), _ = _spoiled(here)
    got = after, {n: x for n, x in metrics.items() if not n.startswith("ledger_")}
    what = "With NaN in the messages of weight 0"
    assert_same(got, here.run(lambda c: quiet(silence(c))), what=what)


@law
def ledger(here: Setup) -> None:
    """What the clients send is counted in every pass, and known of each.

    A step reports the bits of all its passes: `add_bits(last.metrics, first.metrics)`;
    to what it counts by itself it adds `clients.bits(name, each)`.
    """
    if hold_at_once(here):
        return
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
        sent = Sent()
        algorithm = spoiled(here.quiet, sent)
        result = here.run(lambda c: quiet(silence(c)), algorithm=algorithm)
        jax.effects_barrier()
        here.spoiled = result, sent.bits
    return here.spoiled


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
