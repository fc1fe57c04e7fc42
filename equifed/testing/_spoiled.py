"""Clients that take no step, and whose messages are spoiled on their way."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

from .._aggregator import AbstractAggregator
from .._algorithm import AbstractAlgorithm
from .._algorithm.around import _AbstractWithItsState
from .._bits import Bits, UP
from .._cohort import Cohort
from .._executor.blocks import Pass
from .._executor.mapping import run_pass
from .._wire import Message
from ._clients import SIZES


# One has no examples; the other has, and no full batch of them.
SILENT = tuple(i for i, n in enumerate(SIZES) if n in (0, 7))


def silence(cohort: Cohort) -> Cohort:
    """The cohort in which these take no step."""
    silent = jnp.isin(cohort.index, jnp.asarray(SILENT))
    stop = jnp.where(silent, cohort.start, cohort.stop)
    return eqx.tree_at(lambda c: c.stop, cohort, stop)


class Sent:
    """What it is told that was sent in each round, in bits."""

    def __init__(self):
        self.bits: Counter[int] = Counter()

    def __call__(self, round: Array, digits: Array) -> None:
        bits = eqx.tree_at(lambda b: b.digits, Bits(0), np.asarray(digits))
        self.bits[int(round)] += int(bits)


def spoiled(
    algorithm: AbstractAlgorithm, note: Callable[[Array, Array], None]
) -> AbstractAlgorithm:
    """The same algorithm, whose messages of weight 0 are NaN on their way to the
    aggregator, in every pass, of each of which it notes the bits."""
    return _Spoiled(algorithm, note)


class _Spoiled(_AbstractWithItsState):
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
