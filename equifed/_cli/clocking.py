"""How long rounds take, by a few numbers of the clients' devices.

What they mean the classes of `equifed.clock` say; what a round costs a client is
counted, once the algorithm and the model are there.
"""

import dataclasses
from typing import Any, get_args, Literal

import numpy as np

from .._algorithm import AbstractAlgorithm, AbstractAsynchronous
from .._algorithm.inside import asynchronous_in
from .._check import check_choice, check_number
from .._roles import Roles
from .._types import Model
from ..clock import (
    AlwaysAvailable,
    AsynchronousClock,
    DailyAvailability,
    Exponential,
    LogNormal,
    SynchronousClock,
    SystemModel,
    Work,
)
from ..data import AbstractClock, Loader
from ..recipes._algorithms import ALGORITHMS, needs_root
from ..recipes._numbers import Number, numbers_of_fields


Stragglers = Literal["drop", "partial"]
CLOCKS: dict[str, type[AbstractClock]] = {
    "synchronous": SynchronousClock,
    "asynchronous": AsynchronousClock,
}
_ONLY = {
    "synchronous": ("deadline", "goal", "stragglers"),
    "asynchronous": ("buffer_size", "time_limit"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clock:
    """How long rounds take.

    **Arguments:**

    - `kind`: `"synchronous"`, or `"asynchronous"`, under which as many clients are
        under way as otherwise take part in a round.
    - `speed`: the median of the clients' FLOP/s; if not given, computing takes no time.
    - `downlink`, `uplink`: the medians of their bits/s; if not given, likewise.
    - `spread`: how far clients are apart in these: the standard deviation of the
        logarithm, of each drawn once.
    - `latency`: the mean seconds until a client answers, drawn anew each time.
    - `share`: the share of every day that a client is there; if not given, always.
    - `drops`: the probability to be lost after the computation.
    - `flops`: operations of one local step; if not given, those that XLA counts.
    - `deadline`: the longest a round takes, in seconds; if not given, there is none.
    - `goal`: how many answers a round waits for; all if not given. With more clients
        per round this is over-selection.
    - `stragglers`: whether clients that cannot take all steps by the deadline are left
        out (`"drop"`), or take fewer (`"partial"`).
    - `buffer_size`: how many messages make a round.
    - `time_limit`: the seconds after which a client sends what it has, after fewer
        steps; if not given, it takes all.
    """

    kind: str
    speed: float | None = None
    downlink: float | None = None
    uplink: float | None = None
    spread: float = 0.0
    latency: float = 0.0
    share: float | None = None
    drops: float = 0.0
    flops: float | None = None
    deadline: float | None = None
    goal: int | None = None
    stragglers: Stragglers = "drop"
    buffer_size: int | None = None
    time_limit: float | None = None

    def __post_init__(self) -> None:
        check_choice("clock", self.kind, tuple(CLOCKS))
        check_choice("stragglers", self.stragglers, get_args(Stragglers))
        for field in dataclasses.fields(self):
            known = field.name == "kind" or field.name in numbers_of(self.kind)
            if not known and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"`{field.name}` is no number of the clock {self.kind!r}, got "
                    f"{getattr(self, field.name)}. Leave it out, or take the other one."
                )
        if self.kind == "asynchronous" and self.buffer_size is None:
            raise ValueError(
                "An asynchronous clock needs `buffer_size`, how many messages make a "
                "round: `--clock.buffer-size 10`, or 1 for `fedasync`."
            )
        for name in ("speed", "downlink", "uplink"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), least=0, strict=True)
        for name in ("spread", "latency"):
            check_number(name, getattr(self, name), least=0)
        check_number("drops", self.drops, least=0, most=1)
        if self.share is not None:
            check_number("share", self.share, least=0, strict=True, most=1)
        # Which looks at all other numbers.
        flops = 1.0 if self.flops is None else self.flops
        self._clock(Work(flops=flops, bits_down=0, bits_up=0), None, seed=0)

    def check_fits(self, algorithm: str, *, num_chosen: int | None) -> None:
        """Refuses an algorithm, by its name, that its rounds do not fit."""
        cls, waits = ALGORITHMS[algorithm], self.kind == "synchronous"
        if waits and issubclass(cls, AbstractAsynchronous):
            raise ValueError(no_clock(algorithm))
        if not waits and not issubclass(cls, AbstractAsynchronous):
            both = ALGORITHMS.items()
            others = [n for n, x in both if issubclass(x, AbstractAsynchronous)]
            raise ValueError(
                "Under an asynchronous clock clients train from old models, and "
                f"{algorithm!r} has the newest alone. Take `--clock synchronous`, or "
                f"another algorithm: {', '.join(others)}."
            )
        if not waits and num_chosen is not None:
            raise ValueError(
                "`power_of_choice` asks clients before a round, and under an "
                "asynchronous clock their messages are there when it begins. Leave it "
                "out."
            )
        if needs_root(cls):
            raise ValueError(
                f"{algorithm!r} has the server's examples in every round, and a clock "
                "would make a phone of it. Leave `clock` out."
            )

    def build(
        self,
        algorithm: AbstractAlgorithm,
        model: Model,
        loader: Loader,
        *,
        roles: Roles | None,
        seed: int,
    ) -> AbstractClock:
        """The clock, for whom the loader has."""
        work = Work.of(algorithm, model, loader, roles=roles)
        if self.flops is not None:
            work = dataclasses.replace(work, flops=self.flops)
        old = asynchronous_in(algorithm)
        return self._clock(work, None if old is None else old.max_staleness, seed=seed)

    def as_json(self) -> dict[str, Any]:
        """What is given, as JSON has it."""
        values = {"kind": self.kind}
        for name, number in numbers_of(self.kind).items():
            value = getattr(self, name)
            values |= {} if value == number.default else {name: value}
        return values

    def _clock(
        self, work: Work, max_staleness: int | None, *, seed: int
    ) -> AbstractClock:
        def drawn(median: float | None) -> Any:
            return np.inf if median is None else LogNormal(median, self.spread)

        there = (
            AlwaysAvailable() if self.share is None else DailyAvailability(self.share)
        )
        system = SystemModel(
            speed=drawn(self.speed),
            downlink=drawn(self.downlink),
            uplink=drawn(self.uplink),
            latency=Exponential(self.latency, each="round"),
            availability=there,
            drops_after=self.drops,
            seed=seed,
        )
        options = {name: getattr(self, name) for name in _ONLY[self.kind]}
        if self.kind == "synchronous":
            return SynchronousClock(system, work, **options)
        return AsynchronousClock(system, work, max_staleness=max_staleness, **options)


def no_clock(algorithm: str) -> str:
    """What is said of an asynchronous algorithm whose rounds wait."""
    return (
        f"{algorithm!r} trains clients from old models, and needs a clock that says "
        "how old: `--clock asynchronous --clock.buffer-size 10`."
    )


def numbers_of(kind: str) -> dict[str, Number]:
    """The numbers of a clock."""
    others = {x for name, own in _ONLY.items() if name != kind for x in own}
    names = {field.name for field in dataclasses.fields(Clock)}
    return numbers_of_fields(Clock, names - others - {"kind"})
