"""Asynchronous rounds under a clock: clients work all the time, and the server steps
when its buffer is full.

The events, in the order of their times, are made ahead: each is a function of the seed
and of the events before it. So a round is known before anything is computed: whose
messages are in the buffer, and how many versions old the model of each is.
"""

import dataclasses
from collections.abc import Iterator

from jaxtyping import ArrayLike

from .._algorithm import AbstractAlgorithm
from .._algorithm.around import _AbstractAround
from .._algorithm.inside import asynchronous_in, layers
from .._check import check_count, check_kind, checked
from ..data import AbstractClock, ClockedRound, Population
from .events import Events
from .quantity import number
from .system import SystemModel
from .work import Work


@dataclasses.dataclass(eq=False)
class AsynchronousClock(AbstractClock):
    """Clients that work all the time, and a server that steps when so many messages
    are there: FedBuff's, and with a buffer of one FedAsync's.

    As many clients as the loader's sampler draws are under way at a time (the
    concurrency). One that is done puts its message into the buffer. When that is full
    it is a round, and the server has a new version. A place that has become free is
    given to a client that is there, is not under way, and is not in the buffer, as the
    sampler draws it (any, where it would draw all of them); it is sent the newest
    version. A client that drops out, or goes
    away before it is done, is lost, and its place is free at that moment. Clients that
    take no step are not sent out.

    `cohort.info["staleness"]` says of each message how many versions the server has had
    since its client was sent the model, as the asynchronous algorithms want to know
    ([`equifed.FedBuff`][], say). A round that the algorithm rejects is a version too.

    The history of a training then has of each round, beside its metrics,

    - `seconds`: the virtual time when it ended, from the beginning of the training;
    - `drawn`: to how many clients the model was sent since the round before;
    - `lost`: how many dropped out or went away;
    - `stale`: how many messages came and were staler than `max_staleness`;
    - `partial`: how many messages of the buffer are of fewer steps than planned;
    - `bits_wasted`: what was sent from and to clients that were lost or too stale,
        which `bits_up` and `bits_down` do not count.

    !!! example

        ```python
        clock = AsynchronousClock(system, work, buffer_size=10, max_staleness=20)
        loader = Loader(dataset, UniformSampler(100), batching, clock=clock)
        algorithm = eqf.FedBuff(loss, optim, batching, max_staleness=20)
        ```
    """

    system: SystemModel
    work: Work
    buffer_size: int
    max_staleness: int | None
    time_limit: float | None

    @checked(
        system="Write `SystemModel(speed=LogNormal(1e9, 1.0))`, for example.",
        work="Write `Work.of(algorithm, model, loader)`.",
    )
    def __init__(
        self,
        system: SystemModel,
        work: Work,
        *,
        buffer_size: int,
        max_staleness: int | None = None,
        time_limit: ArrayLike | None = None,
    ):
        """**Arguments:**

        - `system`: what the clients' devices are like.
        - `work`: what a round costs a client.
        - `buffer_size`: how many messages make a round.
        - `max_staleness`: messages that are staler are thrown away when they come. That
            of the algorithm, of which the old models are kept; by default all are
            taken, and the algorithm throws away what it cannot use, which makes its
            rounds smaller.
        - `time_limit`: the seconds that a client may take: of its steps it takes as
            many as it can, of at least one. By default it takes all. (TimelyFL,
            2304.06947, finds this time anew in each round, which ends with it: that is
            a `deadline` of a [`equifed.clock.SynchronousClock`][].)
        """
        check_kind("system", system, SystemModel)
        self.buffer_size = check_count("buffer_size", buffer_size)
        if max_staleness is not None:
            max_staleness = check_count("max_staleness", max_staleness, least=0)
        if time_limit is not None:
            time_limit = number("time_limit", time_limit, least=0, strict=True)
        self.system, self.work = system, work
        self.max_staleness, self.time_limit = max_staleness, time_limit

    @property
    def independent(self) -> bool:
        """Whether one client's taking part says nothing of the others': no, as who is
        sent out depends on who is under way."""
        return False

    def check(self, population: Population) -> None:
        """Refuses a population of which the system does not know all clients, and a
        buffer that is never full."""
        self.system.check_clients(population.num_clients)
        concurrency = population.sampler.max_clients(population.num_clients)
        if self.buffer_size > concurrency:
            raise ValueError(
                f"`buffer_size` is {self.buffer_size}, but the sampler has at most "
                f"{concurrency} clients under way at a time (the concurrency). Make "
                "the buffer smaller, or draw more clients."
            )
        able = int((population.steps > 0).sum())
        if self.buffer_size > able:
            raise ValueError(
                f"`buffer_size` is {self.buffer_size}, but only {able} of the "
                f"{population.num_clients} clients take a step, and a client is not "
                "twice in a buffer. Make it smaller."
            )

    def check_algorithm(self, algorithm: AbstractAlgorithm) -> None:
        """Refuses an algorithm whose clients train from the newest model, if its step
        is none of the user's own, and one that keeps fewer old models than are asked
        for; also inside of others."""
        found, name = asynchronous_in(algorithm), type(algorithm).__name__
        if found is None:
            steps = (type(layer).step for layer in layers(algorithm))
            if not all(step.__module__.startswith("equifed.") for step in steps):
                return  # It may look at the staleness itself.
            raise ValueError(
                "Under an `AsynchronousClock` messages come from models of different "
                f"ages, and `{name}` trains every client from the newest, which none "
                "of them had when it began. Take `FedBuff`, `FedAsync`, or "
                "`Asynchronous(algorithm, max_staleness=...)`; or a "
                "`SynchronousClock`, whose rounds wait for their clients."
            )
        for layer in layers(algorithm):
            if isinstance(layer, _AbstractAround) and layer.asks_first:
                raise ValueError(
                    f"`{type(layer).__name__}` asks clients by the newest model before "
                    "it chooses whom to train, and under an `AsynchronousClock` their "
                    "messages, from older ones, are there when a round begins. Leave "
                    "it out, or take a `SynchronousClock`."
                )
        most = self.max_staleness
        if most is not None and most > found.max_staleness:
            raise ValueError(
                f"The clock lets messages of a `max_staleness` of {most} through, but "
                f"`{type(found).__name__}` keeps {found.max_staleness} old models and "
                "would drop what is older. Give both the same; or the clock none, and "
                "count what is dropped."
            )

    def rounds(self, population: Population) -> Iterator[ClockedRound]:
        """The rounds from the first, without end.

        **Raises:**

        `ValueError` where no client will ever be there again, or 10,000 in a row are
        lost or too stale.
        """
        events = Events(
            *(self.system, self.work, population),
            buffer_size=self.buffer_size,
            max_staleness=self.max_staleness,
            time_limit=self.time_limit,
        )
        while True:
            yield events.next_round()
