"""Samplers that choose among the clients that are available in a round.

Who is chosen follows from who was chosen before. It is a pure function of the round
nevertheless: what went before is computed anew from round 0, and remembered.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from ..._check import check_count, check_seed, checked
from ..._words import shown
from .._random import generator, permutation, SAMPLE
from .base import AbstractSampler, Among, check_cohort_size


Available = Callable[[int, Int[np.ndarray, " clients"]], Any]


class LeastOftenSampler(AbstractSampler):
    """Of the clients that are available those that were drawn least often before.

    Among equals a new random order decides in each round. A round in which fewer than
    `cohort_size` are available has all of these. Where all clients always are, this is
    [`equifed.data.ShuffledSampler`][], which needs no earlier round.
    """

    cohort_size: int
    available: Available
    seed: int

    @checked()
    def __init__(self, cohort_size: int, available: Available, *, seed: int = 0):
        """**Arguments:**

        - `cohort_size`: The most clients in a round.
        - `available`: `available(round, clients)`, given the numbers of all clients,
            returns whether each of them could take part. It must be a function of its
            arguments alone.
        - `seed`: The seed of all rounds.
        """
        self.cohort_size = check_count("cohort_size", cohort_size)
        self.available = available
        self.seed = check_seed(seed)

    @functools.cached_property
    def _walks(self) -> dict[int, "_Walk"]:
        return {}

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        check_cohort_size(self.cohort_size, num_clients)
        begin = np.zeros(num_clients, np.int64)
        walk = self._walks.setdefault(num_clients, _Walk(self._step, begin))
        return walk(round)

    def under_clock(self) -> Among:
        return _Turns(self._step, lambda size: np.zeros(size, np.int64))

    def _step(
        self,
        round: int,
        times: np.ndarray,
        present: np.ndarray | None = None,
        most: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        there = _available(self.available, round, len(times), present)
        ties = permutation(generator(self.seed, SAMPLE, round), len(times))
        order = ties[np.argsort(times[ties], kind="stable")]
        cohort = order[there[order]][: self.cohort_size][:most]
        times = times.copy()
        times[cohort] += 1
        return cohort, times

    def max_clients(self, num_clients: int) -> int:
        return self.cohort_size


class RoundRobinSampler(AbstractSampler):
    """Clients take turns: in each round the next that are available.

    All clients stand in a circle, in a random order that is the same in all rounds. A
    round begins after the last client of the one before it, and passes over those that
    are not available, who wait until the circle comes to them again. A round in which
    fewer than `cohort_size` are available has all of these. Where all clients always
    are, this is [`equifed.data.ShuffledSampler`][] with `reshuffle=False`, which needs
    no earlier round.
    """

    cohort_size: int
    available: Available
    seed: int

    @checked()
    def __init__(self, cohort_size: int, available: Available, *, seed: int = 0):
        """**Arguments:**

        - `cohort_size`: The most clients in a round.
        - `available`: As in [`equifed.data.LeastOftenSampler`][].
        - `seed`: The seed of the order.
        """
        self.cohort_size = check_count("cohort_size", cohort_size)
        self.available = available
        self.seed = check_seed(seed)

    @functools.cached_property
    def _walks(self) -> dict[int, "_Walk"]:
        return {}

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        check_cohort_size(self.cohort_size, num_clients)
        walk = self._walks.setdefault(
            num_clients, _Walk(self._step, self._circle(num_clients))
        )
        return walk(round)

    def under_clock(self) -> Among:
        return _Turns(self._step, self._circle)

    def _circle(self, num_clients: int) -> np.ndarray:
        return permutation(generator(self.seed, SAMPLE, 0), num_clients)

    def _step(
        self,
        round: int,
        circle: np.ndarray,
        present: np.ndarray | None = None,
        most: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The circle is that of this round: it begins with whose turn it is."""
        there = _available(self.available, round, len(circle), present)
        places = np.flatnonzero(there[circle])[: self.cohort_size][:most]
        passed = places[-1] + 1 if len(places) > 0 else 0
        return circle[places], np.roll(circle, -passed)

    def max_clients(self, num_clients: int) -> int:
        return self.cohort_size


class _Walk:
    """The cohorts of all rounds from 0 up to the last that was asked for.

    A loader's thread and its user may ask at once: both then compute the same.
    """

    def __init__(self, step: Callable[[int, Any], tuple[np.ndarray, Any]], begin: Any):
        self._step = step
        self._reached = (0, begin)
        self._cohorts: dict[int, np.ndarray] = {}

    def __call__(self, round: int) -> np.ndarray:
        next_round, state = self._reached
        while next_round <= round:
            cohort, state = self._step(next_round, state)
            self._cohorts[next_round] = cohort
            next_round += 1
            self._reached = (next_round, state)
        return self._cohorts[round].copy()


class _Turns:
    """The cohorts of a clock's rounds, one after another, of those that are there."""

    def __init__(
        self,
        step: Callable[..., tuple[np.ndarray, Any]],
        begin: Callable[[int], np.ndarray],
    ):
        self._step, self._begin = step, begin
        self._state: np.ndarray | None = None

    def __call__(self, round: int, there: np.ndarray, most: int | None) -> np.ndarray:
        state = self._begin(len(there)) if self._state is None else self._state
        cohort, self._state = self._step(round, state, there, most)
        return cohort


def _available(
    available: Available, round: int, num_clients: int, present: np.ndarray | None
) -> np.ndarray:
    """Who is available, of those that are present."""
    said = available(round, np.arange(num_clients))
    there = np.asarray(said)
    if there.shape != (num_clients,) or there.dtype != bool:
        raise ValueError(
            f"`available` must return True or False for each of the {num_clients} "
            f"clients, got {shown(said)} in round {round}. Compare with something: "
            "`lambda round, clients: clients % 24 != round % 24`, for example."
        )
    return there if present is None else there & present
