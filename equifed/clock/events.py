"""What happens between the server and clients that work all the time, in order.

A client is sent the model, and is done or lost some time later; nothing else happens,
but that somebody is there again. So it is known ahead: when which client comes back is
a function of the seed, its number, and how often it has been sent out before.
"""

import collections
import heapq
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ..data import ClockedRound, Population
from ..data._random import generator, permutation, PLACE
from .availability import AlwaysAvailable
from .system import SystemModel
from .tries import tries, whole
from .work import Work


# So many clients in a row whose messages never come: nobody's ever does.
_IN_VAIN = 10_000
_NOBODY = -1
# So many of a client's flights are looked at together.
_AHEAD = 32


class Event(NamedTuple):
    """Something that happens, in the order of time, and then of when it was planned."""

    time: float
    number: int
    what: Literal["done", "lost", "there"]
    """A client is done, or lost; or somebody is there again who may be sent out."""
    client: int
    version: int
    """What the client was sent."""
    steps: int


class Events:
    """The events so far."""

    def __init__(
        self,
        system: SystemModel,
        work: Work,
        population: Population,
        *,
        buffer_size: int,
        max_staleness: int | None,
        time_limit: float | None,
    ):
        self._system, self._work, self._population = system, work, population
        self._buffer_size, self._max_staleness = buffer_size, max_staleness
        self._time_limit = time_limit
        self._always = isinstance(system.availability, AlwaysAvailable)
        self._vacant = population.sampler.max_clients(population.num_clients)
        self._busy = population.steps == 0
        self._flying: list[Event] = []
        self._buffer: list[Event] = []
        self._time, self._version, self._drawn, self._planned = 0.0, 0, 0, 0
        self._counts = {"drawn": 0, "lost": 0, "stale": 0}
        self._in_vain, self._wakes = 0, np.inf
        self._ahead: dict[int, collections.deque] = {}
        self._flown: dict[int, int] = {}

    def next_round(self) -> ClockedRound:
        """The next buffer that is full."""
        while True:
            self._send()
            if not self._flying:
                raise self._nobody()
            event = heapq.heappop(self._flying)
            self._time = event.time
            if event.what == "there":
                self._wakes = np.inf
                continue
            self._vacant += 1
            lost = event.what == "lost"
            if lost or self._is_stale(event):
                self._in_vain += 1
                self._counts["lost" if lost else "stale"] += 1
                self._busy[event.client] = False
                if self._in_vain == _IN_VAIN:
                    raise ValueError(
                        f"{_IN_VAIN:,} clients in a row were lost or too stale, so "
                        "that the buffer is never full: see `drops_before`, "
                        "`drops_after` and `availability` of the `SystemModel`, and "
                        "`max_staleness`."
                    )
                continue
            self._in_vain = 0
            self._buffer.append(event)
            if len(self._buffer) == self._buffer_size:
                return self._step()

    def _nobody(self) -> ValueError:
        if not self._buffer:
            return ValueError(
                "No client is ever available again: see `availability` of the "
                "`SystemModel`."
            )
        return ValueError(
            f"The buffer has {len(self._buffer)} of {self._buffer_size} messages, and "
            "no client without a message in it is ever available again. Make "
            "`buffer_size` smaller, or see `availability` of the `SystemModel`."
        )

    def _is_stale(self, event: Event) -> bool:
        most = self._max_staleness
        return most is not None and self._version - event.version > most

    def _step(self) -> ClockedRound:
        """The server's step: the buffer is empty again."""
        work, counts, full = self._work, self._counts, self._buffer
        clients = np.array([event.client for event in full], np.int64)
        steps = np.array([event.steps for event in full], np.int64)
        ages = np.array([self._version - event.version for event in full], np.int32)
        down = (counts["lost"] + counts["stale"]) * work.bits_down
        report = {
            "seconds": self._time,
            **counts,
            "partial": int((steps < self._population.steps[clients]).sum()),
            "bits_wasted": int(down + counts["stale"] * work.bits_up),
        }
        self._busy[clients] = False
        self._counts, self._buffer = dict.fromkeys(counts, 0), []
        self._version += 1
        return ClockedRound(clients, steps, report, {"staleness": ages})

    def _send(self) -> None:
        """Sends the model out to as many as there are places."""
        # To count is several times as fast as `any`, `all` or `sum`.
        while self._vacant > 0 and np.count_nonzero(self._busy) < len(self._busy):
            there = self._there()
            number = int(np.count_nonzero(there))
            if number == 0:
                self._wait()
                return
            clients = self._draw(there, number)
            self._vacant -= len(clients)
            self._counts["drawn"] += len(clients)
            self._busy[clients] = True
            self._fly(clients)

    def _fly(self, clients: Int[np.ndarray, " clients"]) -> None:
        """Plans when they are done, or lost: the next of each one's own flights."""
        leaves = [np.inf] * len(clients)
        if not self._always:
            leaves = self._system.until(clients, self._time).tolist()
        for client, leave in zip(clients.tolist(), leaves, strict=True):
            steps, back, lost_at = self._next_flight(client)
            end = self._time + min(back, lost_at)
            what = "lost" if lost_at < np.inf or leave < end else "done"
            self._plan(min(leave, end), what, client, steps)

    def _next_flight(self, client: int) -> tuple[int, float, float]:
        # Many at a time: of one alone nearly all is overhead.
        ahead = self._ahead.get(client, ())
        if not ahead:
            number = self._flown.get(client, 0)
            self._flown[client] = number + _AHEAD
            clients = np.full(_AHEAD, client)
            count = np.arange(number, number + _AHEAD)
            planned = self._population.steps[clients]
            asked = whole(self._system, self._work, clients, count, planned)
            found = tries(self._system, asked, limit=self._time_limit)
            rows = (x.tolist() for x in (found.steps, found.back, found.lost_at))
            ahead = self._ahead[client] = collections.deque(zip(*rows, strict=True))
        return ahead.popleft()

    def _there(self) -> Bool[np.ndarray, " population"]:
        """Who could be sent out."""
        system, free = self._system, ~self._busy
        if not self._always:
            clients = np.flatnonzero(free)
            free[clients] = system.available(clients, self._time)
        return free

    def _draw(
        self, there: Bool[np.ndarray, " population"], number: int
    ) -> Int[np.ndarray, " clients"]:
        """As many of those who are there as there are places, or fewer; at least
        one."""
        population = self._population
        for _ in range(_IN_VAIN):
            clients = population.drawn(self._drawn, there=there, most=self._vacant)
            if len(clients) > 1:  # Who is drawn twice is under way once.
                clients = clients[np.sort(np.unique(clients, return_index=True)[1])]
            if len(clients) == number:  # All are drawn, in no random order.
                rng = generator(population.sampler.seed, PLACE, self._drawn)
                clients = clients[permutation(rng, number)]
            self._drawn += 1
            if len(clients) > 0:
                return clients[: self._vacant]
        raise ValueError(
            f"In {_IN_VAIN:,} draws the sampler drew none of the {number} clients "
            "that were there and not busy. Take `UniformSampler(concurrency)`, say."
        )

    def _wait(self) -> None:
        """Comes back when somebody is there who could be sent out."""
        free = np.flatnonzero(~self._busy)
        end = float(self._system.next_available(free, self._time).min())
        if end < self._wakes:
            self._wakes = end
            self._plan(end, "there", _NOBODY, 0)

    def _plan(self, time: float, what: Any, client: int, steps: int) -> None:
        event = Event(time, self._planned, what, client, self._version, steps)
        heapq.heappush(self._flying, event)
        self._planned += 1
