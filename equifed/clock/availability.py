"""When a client is there: charging, idle, on a network that costs nothing.

Time is in seconds from the beginning of the training.
"""

import abc
import dataclasses
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from .._check import checked
from .._overrides import inherit_types
from .distributions import Uniform
from .draws import Draws
from .quantity import AbstractQuantity, number, quantity, values_of


Times = Float[np.ndarray, " clients"]


class AbstractAvailability(abc.ABC):
    """When clients are there, a pure function of a seed, the client and the time."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def available(
        self, draws: Draws, clients: Int[np.ndarray, " clients"], time: Times
    ) -> Bool[np.ndarray, " clients"]:
        """Which of some clients are there, each at its time."""

    @abc.abstractmethod
    def until(
        self, draws: Draws, clients: Int[np.ndarray, " clients"], time: Times
    ) -> Times:
        """When they are next not there: `time` for those that are not there now, and
        infinite for those that stay for ever."""

    @abc.abstractmethod
    def next_available(
        self, draws: Draws, clients: Int[np.ndarray, " clients"], time: Times
    ) -> Times:
        """When they are next there: `time` for those that are there now, and infinite
        for those that never come again."""

    @property
    def num_clients(self) -> int | None:
        """How many clients it knows; `None` if it knows any number of them."""
        return None


@dataclasses.dataclass(eq=False)
class AlwaysAvailable(AbstractAvailability):
    """All clients are always there."""

    def available(self, draws, clients, time):
        return np.ones(len(clients), bool)

    def until(self, draws, clients, time):
        return np.full(len(clients), np.inf)

    def next_available(self, draws, clients, time):
        return time


@dataclasses.dataclass(eq=False)
class DailyAvailability(AbstractAvailability):
    """Each client is there in one stretch of every day: at night, say.

    **Arguments:**

    - `share`: the share of a day that a client is there, a quantity or a plain number.
    - `phase`: when its stretch begins, as a share of a day; by default anywhere. With
        `LogNormal`s or a narrow `Uniform` all clients come at about the same time.
    - `day`: its length in seconds.
    """

    share: AbstractQuantity
    phase: AbstractQuantity
    day: float

    @checked()
    def __init__(self, share: Any, *, phase: Any = None, day: ArrayLike = 86400.0):
        self.share = quantity("share", share)
        self.phase = Uniform(0, 1) if phase is None else quantity("phase", phase)
        self.day = number("day", day, least=0, strict=True)

    def _place(self, draws, clients, time):
        """The share of a day that has gone by since each stretch began, and its
        length."""
        share = probabilities("share", self.share, draws.of(0), clients, 0)
        phase = self.phase(draws.of(1), clients, 0)
        return (time / self.day - phase) % 1.0, share

    def available(self, draws, clients, time):
        gone, share = self._place(draws, clients, time)
        return gone < share

    def until(self, draws, clients, time):
        gone, share = self._place(draws, clients, time)
        end = np.where(share >= 1, np.inf, time + (share - gone) * self.day)
        return np.where(gone < share, end, time)

    def next_available(self, draws, clients, time):
        gone, share = self._place(draws, clients, time)
        come = np.where(share <= 0, np.inf, time + (1 - gone) * self.day)
        return np.where(gone < share, time, come)

    @property
    def num_clients(self) -> int | None:
        counts = (self.share.num_clients, self.phase.num_clients)
        return min((c for c in counts if c is not None), default=None)


@dataclasses.dataclass(eq=False)
class SlottedAvailability(AbstractAvailability):
    """In each slot of time each client is there with a probability of its own.

    What a client is in the next slot does not depend on what it is in this one. A
    probability that changes with time is one that changes with the number of the slot:
    a [`equifed.clock.Wave`][], say.

    **Arguments:**

    - `probability`: a quantity, or a plain number.
    - `slot`: the length of a slot in seconds.

    A client that has not come (or gone) in 4,096 slots is taken for one that never
    does.
    """

    probability: AbstractQuantity
    slot: float

    @checked()
    def __init__(self, probability: Any, *, slot: ArrayLike):
        self.probability = quantity("probability", probability)
        self.slot = number("slot", slot, least=0, strict=True)

    def _there(self, draws, clients, slots):
        probability = probabilities(
            "probability", self.probability, draws.of(0), clients, slots
        )
        return draws.of(1).uniforms(clients, slots)[:, 0] < probability

    def available(self, draws, clients, time):
        return self._there(draws, clients, self._slots(time))

    def _slots(self, time):
        slots = np.floor(time / self.slot)
        if slots.max(initial=0) >= 2**53:
            raise ValueError(
                f"After {time.max():g} seconds slots of {self.slot:g} seconds cannot "
                "be told from one another. Make `slot` longer."
            )
        return slots.astype(np.int64)

    def _next(self, draws, clients, time, *, there):
        """When each is next there, or next not there."""
        slots, out = self._slots(time), time.copy()
        todo = np.flatnonzero(self._there(draws, clients, slots) != there)
        out[todo] = np.inf
        for ahead in range(1, 4097):
            if len(todo) == 0:
                break
            now = slots[todo] + ahead
            found = self._there(draws, clients[todo], now) == there
            out[todo[found]] = now[found] * self.slot
            todo = todo[~found]
        return out

    def until(self, draws, clients, time):
        return self._next(draws, clients, time, there=False)

    def next_available(self, draws, clients, time):
        return self._next(draws, clients, time, there=True)

    @property
    def num_clients(self) -> int | None:
        return self.probability.num_clients


def probabilities(
    name: str,
    of: AbstractQuantity,
    draws: Draws,
    clients: Int[np.ndarray, " clients"],
    count: int | Int[np.ndarray, " clients"],
) -> Float[np.ndarray, " clients"]:
    """A quantity that has to lie between 0 and 1."""
    values = values_of(name, of, draws, clients, count)
    outside = ~((values >= 0) & (values <= 1))
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"`{name}` must be between 0 and 1, got {values[i]:g} for client "
            f"{clients[i]}."
        )
    return values
