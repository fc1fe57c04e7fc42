"""Rounds in time: who takes part in one follows from how long those before it took.

A clock is an iterator over rounds from the first, made of what is known before it: the
clients' sizes, the sampler, and what their devices are like. So a loader that has one
is still a function of the round: it walks the clock up to there, once.
"""

import abc
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from .._overrides import inherit_types
from .._words import shown
from ._arrays import as_numbers
from ._draw import is_ours
from ._sampler import AbstractSampler


class Population(NamedTuple):
    """What a clock is told of the clients."""

    sizes: Int[np.ndarray, " population"]
    """Their numbers of examples."""
    steps: Int[np.ndarray, " population"]
    """How many steps each is to take in a round."""
    sampler: AbstractSampler
    drawn: Callable[..., Int[np.ndarray, " clients"]]
    """`drawn(round, there=there, most=most)` is whom the sampler draws of the clients
    that are there; of all, if `there` is `None`. `most` are wanted, if it is given:
    those beyond are drawn in vain."""

    @property
    def num_clients(self) -> int:
        return len(self.sizes)

    @property
    def known_ahead(self) -> bool:
        """Whether the sampler may be asked for a round ahead of its turn."""
        return is_ours(self.sampler)


class ClockedRound(NamedTuple):
    """What a clock says of a round."""

    clients: Int[np.ndarray, " clients"]
    """Whose messages reach the server."""
    steps: Int[np.ndarray, " clients"]
    """The most steps that each of them takes: of its plan, the first ones."""
    report: Mapping[str, int | float]
    """What the history of a training has of it: the virtual `seconds` when it ends,
    and what else there is to count."""
    info: Mapping[str, Shaped[np.ndarray, "clients ..."]] | None = None
    """What goes into `cohort.info` of each client: how stale its message is, say."""


class AbstractClock(abc.ABC):
    """Says who takes part in which round by when clients are there and have finished.

    A [`equifed.data.Loader`][] takes one.
    """

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def rounds(self, population: Population) -> Iterator[ClockedRound]:
        """The rounds from the first, without end; a pure function of the population.

        **Arguments:**

        - `population`: the clients, and how they are drawn.
        """

    @abc.abstractmethod
    def check(self, population: Population) -> None:
        """Refuses a population that it does not fit."""

    def check_algorithm(self, algorithm: Any) -> None:
        """Refuses an algorithm that its rounds do not fit; by default none."""
        return

    @property
    @abc.abstractmethod
    def independent(self) -> bool:
        """Whether one client's taking part says nothing of the others', but for what
        the sampler does: what privacy is accounted by."""


class Walk:
    """The rounds of a clock, each made once, by whichever thread asks for it first."""

    def __init__(self, clock: AbstractClock, population: Population):
        clock.check(population)
        self._population = population
        # Those of the library are right.
        self._own = not type(clock).__module__.startswith("equifed.")
        self._rounds = clock.rounds(population)
        self._seen: list[ClockedRound] = []
        self._error: Exception | None = None
        self._lock = threading.Lock()

    def __call__(self, round: int) -> ClockedRound:
        # What is there needs no lock: the training asks for the round that it is in,
        # while the thread that makes cohorts is at work on later ones.
        if round < len(self._seen):
            return self._seen[round]
        with self._lock:
            while len(self._seen) <= round:
                if self._error is not None:
                    raise self._error
                try:
                    found = next(self._rounds, None)
                    if self._own:
                        _check(found, len(self._seen), self._population)
                    assert found is not None
                    self._seen.append(found)
                except Exception as error:
                    self._error = error
                    raise
            return self._seen[round]


def _check(found: Any, round: int, population: Population) -> None:
    """Refuses what a clock of the user's own says wrongly of a round."""
    where = f"of round {round}, by the loader's clock,"
    if not isinstance(found, ClockedRound):
        raise TypeError(
            f"What the clock says {where} must be a `ClockedRound`, got "
            f"{shown(found)}. Its rounds are without end."
        )
    numbers = (found.clients, population.num_clients), (found.steps, None)
    for name, (x, end) in zip(("clients", "steps"), numbers, strict=True):
        array = as_numbers(x) if isinstance(x, np.ndarray) else None
        if array is None or len(array) != len(found.clients):
            raise TypeError(
                f"`{name}` {where} must be an array of integers, one for each client, "
                f"got {shown(x)}."
            )
        if (array < 0).any() or (end is not None and (array >= end).any()):
            most = "" if end is None else f" to {end - 1}"
            raise ValueError(f"`{name}` {where} must be from 0{most}, got {shown(x)}.")
    report = found.report
    fits = isinstance(report, Mapping) and all(
        isinstance(name, str) and _is_number(x) for name, x in report.items()
    )
    if not fits:
        raise TypeError(
            f"`report` {where} must have numbers by name, got {shown(report)}."
        )


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float | np.integer | np.floating)
