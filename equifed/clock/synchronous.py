"""Synchronous rounds under a clock: the server sends the model out, and waits.

A round begins when the one before it ended, with clients that are there; who answers in
time is in it. It ends when all that is awaited has come or is known not to come.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import ArrayLike, Bool, Int

from .._check import check_choice, check_count, check_kind, checked
from ..data import AbstractClock, ClockedRound, Population
from .availability import AlwaysAvailable
from .quantity import number
from .system import ClientTimes, SystemModel
from .tries import Tries, tries, whole
from .work import Work


Deadline: TypeAlias = Callable[[int, ClientTimes], ArrayLike]

# So many clients are looked at together, of this round and those after it.
_AHEAD = 1024


@dataclasses.dataclass(eq=False)
class SynchronousClock(AbstractClock):
    """Rounds that wait for their clients, up to a deadline.

    A round draws clients that are there. It sends them the model, and they train and
    answer, each in the time that its device and the round's `work` take. A client is
    lost if it drops out, or is no longer there when it would answer. The round ends
    when all are back or lost, when as many are back as the server wants (the rest
    worked in vain), or at the deadline; who is on the way then is late. The server
    notices at once that a client is lost. Where no client is there, it waits for the
    first.

    The history of a training then has of each round, beside its metrics,

    - `seconds`: the virtual time when it ended, from the beginning of the training;
    - `drawn`: to how many clients the model was sent;
    - `late`: how many were not back when it ended;
    - `lost`: how many dropped out or went away;
    - `partial`: how many were in time, with fewer steps than planned;
    - `bits_wasted`: the bits that were sent to clients which then are not in the
        round, and `bits_down` does not count.

    A round may have no client in the end; it takes its time all the same.
    """

    system: SystemModel
    work: Work
    goal: int | None
    deadline: float | Deadline | None
    stragglers: Literal["drop", "partial"]

    @checked(
        system="Write `SystemModel(speed=LogNormal(1e9, 1.0))`, for example.",
        work="Write `Work.of(algorithm, model, loader)`.",
    )
    def __init__(
        self,
        system: SystemModel,
        work: Work,
        *,
        goal: int | None = None,
        deadline: ArrayLike | Deadline | None = None,
        stragglers: Literal["drop", "partial"] = "drop",
    ):
        """**Arguments:**

        - `system`: what the clients' devices are like.
        - `work`: what a round costs a client.
        - `goal`: how many answers the server waits for. With a sampler that draws more,
            1.3 times as many say, this is over-selection. By default all.
        - `deadline`: the longest a round takes, in seconds; or a function that says it
            of each round, `deadline(round, times)`, which is told how long each of the
            clients that were drawn would take for all its steps
            ([`equifed.clock.ClientTimes`][]). By default there is none.
        - `stragglers`: what a client does that cannot take all its steps by the
            deadline: it is left out (`"drop"`), or takes as many as it can, of at least
            one (`"partial"`), as FedProx and FedNova are made for.

        **Raises:**

        `ValueError` for `stragglers="partial"` without a deadline.
        """
        check_kind("system", system, SystemModel)
        check_choice("stragglers", stragglers, ("drop", "partial"))
        self.goal = None if goal is None else check_count("goal", goal)
        if deadline is None and stragglers == "partial":
            raise ValueError(
                "`stragglers` is 'partial', but without a `deadline` there are none: "
                "give one, in seconds."
            )
        self.system, self.work, self.stragglers = system, work, stragglers
        if deadline is None or callable(deadline):
            self.deadline = deadline
        else:
            self.deadline = number("deadline", deadline, least=0, strict=True)

    @property
    def independent(self) -> bool:
        """Whether one client's taking part says nothing of the others': without a goal
        and a deadline that is a function of their times, and if clients are there
        whenever a round begins."""
        always = isinstance(self.system.availability, AlwaysAvailable)
        return self.goal is None and always and not callable(self.deadline)

    def check(self, population: Population) -> None:
        """Refuses a population of which the system does not know all clients, and a
        goal that the sampler never meets."""
        self.system.check_clients(population.num_clients)
        most = population.sampler.max_clients(population.num_clients)
        if self.goal is not None and self.goal > most:
            raise ValueError(
                f"`goal` is {self.goal}, but the sampler draws at most {most} clients. "
                "Lower it, or draw more."
            )

    def rounds(self, population: Population) -> Iterator[ClockedRound]:
        """The rounds from the first, without end.

        **Raises:**

        `ValueError` where no client will ever be there again.
        """
        round, time, ahead = 0, 0.0, collections.deque()
        always = isinstance(self.system.availability, AlwaysAvailable)
        while True:
            if not ahead and always:
                ahead.extend(self._ahead(population, round))
            if always:
                drawn, tried, end = ahead.popleft()
            else:
                there, time = self._there(population, time)
                drawn = population.drawn(round, there=there)
                tried, (end,) = self._tried(population, [round], [drawn])
                tried = tried.without(self.system.until(drawn, time) - time)
            came, length = self._wait(tried, end)
            time += length
            yield ClockedRound(
                drawn[came], tried.steps[came], self._report(tried, came, length, time)
            )
            round += 1

    def _there(
        self, population: Population, time: float
    ) -> tuple[Bool[np.ndarray, " population"], float]:
        """Who is there, and when somebody is."""
        everyone = np.arange(population.num_clients)
        there = self.system.available(everyone, time)
        if not there.any():
            time = float(self.system.next_available(everyone, time).min())
            if time == np.inf:
                raise ValueError(
                    "No client is ever available again: see `availability` of the "
                    "`SystemModel`."
                )
            there = self.system.available(everyone, time)
        return there, time

    def _ahead(
        self, population: Population, round: int
    ) -> list[tuple[Int[np.ndarray, " drawn"], Tries, float]]:
        """Who is drawn in the next rounds, what they do, and the deadlines, where all
        are always there: of many clients together, as of a few nearly all is overhead.
        """
        most = population.sampler.max_clients(population.num_clients)
        count = max(_AHEAD // max(most, 1), 1) if population.known_ahead else 1
        try:
            return self._several(population, range(round, round + count))
        except Exception:  # noqa: BLE001 (of whichever round: told at its turn)
            return self._several(population, range(round, round + 1))

    def _several(
        self, population: Population, rounds: Sequence[int]
    ) -> list[tuple[Int[np.ndarray, " drawn"], Tries, float]]:
        drawn = [population.drawn(round, there=None) for round in rounds]
        tried, ends = self._tried(population, rounds, drawn)
        each = [Tries(*(x[part] for x in tried)) for part in _parts(drawn)]
        return list(zip(drawn, each, ends, strict=True))

    def _tried(
        self,
        population: Population,
        rounds: Sequence[int],
        drawn: Sequence[Int[np.ndarray, " drawn"]],
    ) -> tuple[Tries, list[float]]:
        """What the drawn clients of some rounds do, one by one, if they stay; and the
        rounds' deadlines."""
        clients, sizes = np.concatenate(drawn), [len(x) for x in drawn]
        counts, steps = np.repeat(rounds, sizes), population.steps[clients]
        asked = whole(self.system, self.work, clients, counts, steps)
        if callable(self.deadline):
            parts = _parts(drawn)
            each = [ClientTimes(*(x[part] for x in asked.times)) for part in parts]
            ends = [self._end(*x) for x in zip(rounds, each, strict=True)]
        else:
            ends = [np.inf if self.deadline is None else self.deadline] * len(rounds)
        limit = np.repeat(ends, sizes) if self.stragglers == "partial" else None
        return tries(self.system, asked, limit=limit), ends

    def _end(self, round: int, times: ClientTimes) -> float:
        """What a deadline that is a function says of a round."""
        assert callable(self.deadline)
        if len(times.total) == 0:
            return np.inf  # Nobody is waited for.
        said = self.deadline(int(round), times)
        return number(f"deadline({round}, times)", said, least=0, strict=True)

    def _wait(
        self, tried: Tries, end: float
    ) -> tuple[Bool[np.ndarray, " drawn"], float]:
        """Who is in the round, and how long it takes."""
        back = np.where(np.isfinite(tried.lost_at), np.inf, tried.back)
        came = (back <= end) & np.isfinite(back)
        if self.goal is not None and came.sum() > self.goal:
            first = np.argsort(back, kind="stable")[: self.goal]
            came = np.zeros(len(back), bool)
            came[first] = True
        if self.goal is not None and came.sum() == self.goal:
            return came, float(back[came].max())
        known = np.minimum(np.minimum(back, tried.lost_at), end)
        return came, float(known.max(initial=0.0))

    def _report(
        self,
        tried: Tries,
        came: Bool[np.ndarray, " drawn"],
        length: float,
        time: float,
    ) -> dict[str, int | float]:
        # To count is several times as fast as to sum.
        missing = len(came) - int(np.count_nonzero(came))
        lost = int(np.count_nonzero(~came & (tried.lost_at <= length)))
        return {
            "seconds": time,
            "drawn": len(came),
            "late": missing - lost,
            "lost": lost,
            "partial": int(np.count_nonzero(came & (tried.steps < tried.planned))),
            "bits_wasted": int(self.work.bits_down * missing),
        }


def _parts(drawn: Sequence[Int[np.ndarray, " drawn"]]) -> list[slice]:
    """Where each round's clients are in all of them, one after the other."""
    ends = itertools.accumulate((len(clients) for clients in drawn), initial=0)
    return [slice(*pair) for pair in itertools.pairwise(ends)]
