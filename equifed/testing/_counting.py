"""Laws of what counts: each example of a batch once, each client by its message, and
what is not there not at all.
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

from .._algorithm import AbstractOnePass
from .._cohort import Cohort, NO_CLIENT, NO_ROW
from .._round import State
from .._wire import Aggregate, Broadcast, Message
from ..data import Epochs
from ._claim import assert_same, law
from ._setup import (
    BATCHING,
    KEY,
    quickly,
    quiet_loss,
    Result,
    Setup,
    SIZES,
    slots_of,
    with_slots,
)


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


@law
def silent_clients(here: Setup) -> None:
    """A client that takes no step counts as absent.

    The weight of its message must be 0: use `data.weight`, or multiply with it. An
    aggregator must not count messages of weight 0.
    """
    numbers = jnp.asarray([i for i, n in enumerate(SIZES) if n in (0, 7)])

    def silence(cohort: Cohort) -> Cohort:
        """One has no examples; the other has, and no full batch of them."""
        silent = jnp.isin(cohort.index, numbers)
        stop = jnp.where(silent, cohort.start, cohort.stop)
        return eqx.tree_at(lambda c: c.stop, cohort, stop)

    def remove(cohort: Cohort) -> Cohort:
        silent = jnp.isin(cohort.index, numbers)
        index = jnp.where(silent, NO_CLIENT, cohort.index)
        return eqx.tree_at(lambda c: c.index, cohort, index)

    def others(result: Result) -> PyTree:
        """What a client keeps for itself is its own affair."""
        s, metrics = result
        keep = jtu.tree_map(lambda x: jnp.delete(x, numbers, axis=0), s.clients)
        s = State(s.params, s.rest, s.server, s.aggregator, keep, s.round)
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
    algorithm, state, cohort = here.quiet, here.state, here.cohort(0)
    if not isinstance(algorithm, AbstractOnePass):
        return  # Which of its passes would it be?
    aggregator = algorithm.aggregator
    shared = algorithm.server.broadcast(state.params, state.server)

    def message(slot: int, weight: float, value: float) -> PyTree:
        """That of a client, with its weight and its numbers multiplied."""
        slots = [jnp.roll(x, -slot, axis=1) for x in slots_of(cohort)]
        factors = jnp.asarray(weight), jnp.asarray(value)
        return encode(with_slots(cohort, slots), *factors)

    @quickly
    def encode(cohort: Cohort, weight: Array, value: Array) -> PyTree:
        index = cohort.index[0, 0]
        own = jtu.tree_map(lambda x: x[index], state.clients)
        client_key, encode_key = jr.split(jr.fold_in(jr.key(KEY), index))
        broadcast = Broadcast(state.params, state.rest, shared)
        message, _, _ = algorithm.client.round(
            broadcast, cohort.client(0), own, key=client_key
        )
        payload, stats = jtu.tree_map(
            lambda x: x * value.astype(x.dtype), (message.payload, message.stats)
        )
        message = Message(payload, message.weight * weight, stats)
        return aggregator.encode(message, state.aggregator, key=encode_key)[0]

    @quickly
    def decode(encoded: Sequence[PyTree]) -> Aggregate:
        stack = jtu.tree_map(lambda *x: jnp.stack(x), *encoded)
        if not aggregator.gathers:
            stack = jtu.tree_map(lambda x: x.sum(0), stack)
        return aggregator.decode(stack, state.aggregator, key=jr.key(KEY))[0]

    present = [message(slot, 1.0, 1.0) for slot in range(3)]
    absent = [message(0, 0.0, 3.0), message(3, 0.0, np.nan)]
    expected, got = decode(present), decode([absent[0], *present, absent[1]])
    what = "With messages of weight 0 among the others, one of them NaN"
    assert_same((None, got), (None, expected), what=what)


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
