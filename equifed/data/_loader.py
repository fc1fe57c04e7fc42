"""From a round's number to a `Cohort` on the devices.

A `Loader` is a pure function: the same round always gives the same cohort, so a run
can be resumed anywhere, and the next cohorts can be made in a background thread while
the devices are busy with this one.

A dataset that fits is put on every device once, and a cohort is then a few row
numbers. Of one that does not, each device is sent its clients' rows, round by round.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Shaped

from .._check import check_count, check_seed, checked
from .._cohort import Cohort, Cohorts
from ._batching import AbstractBatching
from ._clock import AbstractClock, Population, Walk
from ._cohorts import AbstractLoader
from ._dataset import FederatedDataset
from ._draw import draw, is_ours, most_of
from ._info import Info, slots_of, with_clock
from ._placement import check_numeric, make_cohort, on_device_dtype, Placement
from ._plan import make_plan, needs, Plan, planned_steps
from ._prefetch import prefetched
from ._room import Needs, room_for
from ._sampler import AbstractSampler
from ._stack import make_cohorts
from ._whose import client_name, owner_of, read_rows


class Loader(AbstractLoader):
    """Makes the cohort of each round.

    !!! example

        ```python
        loader = Loader(dataset, UniformSampler(10, seed=0), Epochs(1, batch_size=20))
        cohort = loader(0)
        for round, cohort in loader.cohorts(0, 100):
            ...
        ```
    """

    dataset: FederatedDataset
    sampler: AbstractSampler
    batching: AbstractBatching
    mesh: Mesh | None
    resident: bool
    prefetch: int
    info: Info | None
    clock: AbstractClock | None

    @checked(
        dataset="Build one with `FederatedDataset.from_arrays` or its siblings.",
        sampler="Write `UniformSampler(10)`, for example, for 10 clients a round.",
        batching="Write `Epochs(1, batch_size=20)`, for example.",
    )
    def __init__(
        self,
        dataset: FederatedDataset,
        sampler: AbstractSampler,
        batching: AbstractBatching,
        *,
        mesh: Mesh | None = None,
        resident: bool | None = None,
        prefetch: int = 2,
        info: Info | None = None,
        clock: AbstractClock | None = None,
    ):
        """**Arguments:**

        - `dataset`: The population. Its columns must hold numbers.
        - `sampler`: Who takes part in a round. Its seed is also that of the order in
            which the clients visit their examples.
        - `batching`: How a client visits its examples: `algorithm.batching`.
        - `mesh`: The devices that share a round, along the axis `clients`. By default
            one.
        - `resident`: Whether the whole dataset is put on every device once. By default
            it is if it takes up at most a quarter of a device's free memory (on a CPU:
            if the copies take up at most 1 GiB).
        - `prefetch`: How many cohorts `cohorts` makes ahead, in a thread.
        - `info`: What else is said of the clients of a round, a domain or a staleness
            say: `info(round, clients)`, given their numbers, returns an array or a
            PyTree of arrays with an entry for each of them. It goes into `cohort.info`
            and the clients' `data.info`, and must be a function of its arguments
            alone. Empty slots hold zeros.
        - `clock`: Virtual time: which of the clients that the sampler draws reach the
            server in time, and with how many steps. See [`equifed.clock`](clock.md).

        **Raises:**

        `ValueError` for a mesh without a `clients` axis, a column that does not hold
        numbers, or a cohort larger than the population.
        """
        check_numeric(dataset.columns)
        check_count("batch_size", batching.batch_size)
        check_seed(sampler.seed)
        self.prefetch = check_count("prefetch", prefetch, least=0)
        self._most = most_of(sampler, dataset)
        # Fails now rather than in the first round.
        draw(sampler, 0, dataset, limit=self._most)
        self.dataset = dataset
        self.sampler = sampler
        self.batching = batching
        self._placement = Placement(mesh)
        self.mesh = self._placement.mesh
        if resident is None:
            resident = self._placement.fits(dataset.nbytes)
        if resident and dataset.num_examples > np.iinfo(np.int32).max:
            raise ValueError(
                f"The dataset has {dataset.num_examples} examples; a resident one can "
                "have at most 2**31 - 1. Pass `resident=False`."
            )
        self.resident = resident
        self.info = self._info = info
        self.clock = clock
        self._walk: Walk | None = None
        if clock is not None:
            sizes = dataset.client_sizes
            parts = {"dataset": dataset, "limit": self._most}
            drawn = functools.partial(
                draw, sampler, among=sampler.under_clock(), **parts
            )
            steps = planned_steps(sizes, batching)
            self._walk = Walk(clock, Population(sizes, steps, sampler, drawn))
            self._info = with_clock(info, self._walk)

    @property
    def num_clients(self) -> int:
        """The size of the population."""
        return self.dataset.num_clients

    @property
    def num_devices(self) -> int:
        return self._placement.num_devices

    def __call__(self, round: int) -> Cohort:
        """Makes the cohort of a round.

        **Arguments:**

        - `round`: The number of the round, from 0.
        """
        round = check_count("round", round, least=0)
        plan, clients = self._plan(round)
        info = slots_of(self._info, round, clients, plan)
        resident = self.resident
        pools = self._resident_examples if resident else self._pools(plan, clients)
        return make_cohort(plan, pools, self._placement, info)

    def _plan(self, round: int) -> tuple[Plan, Int[np.ndarray, " clients"]]:
        """The plan of a round, and the numbers of its clients."""
        dataset = self.dataset
        clients, sizes, steps = self._drawn(round)
        first = dataset.offsets[clients]
        plan = make_plan(
            clients,
            sizes,
            first if self.resident else None,
            self.batching,
            most=steps,
            seed=self.sampler.seed,
            round=round,
            num_devices=self.num_devices,
            num_clients=self.num_clients,
            max_slots=self._most,
            whose=lambda place: client_name(dataset, int(clients[place])),
            room=self._room,
        )
        return plan, clients

    def _drawn(
        self, round: int
    ) -> tuple[
        Int[np.ndarray, " clients"],
        Int[np.ndarray, " clients"],
        Int[np.ndarray, " clients"] | None,
    ]:
        """The numbers of a round's clients, of their examples, and of the most steps
        that they take."""
        steps = None
        if self._walk is None:
            clients = draw(self.sampler, round, self.dataset, limit=self._most)
        else:
            clients, steps, *_ = self._walk(round)
        offsets = self.dataset.offsets
        return clients, offsets[clients + 1] - offsets[clients], steps

    def report(self, round: int) -> Mapping[str, int | float]:
        """What the clock says of a round, for the history; nothing without one."""
        return {} if self._walk is None else self._walk(round).report

    @functools.cached_property
    def _room(self) -> Needs:
        """What nearly every round needs, as far as it is known ahead."""
        if not is_ours(self.sampler):
            return Needs()
        sizes = {"num_devices": self.num_devices, "num_clients": self.num_clients}
        drawn = map(self._drawn, itertools.count())
        return room_for(
            needs(clients, examples, self.batching, most=most, **sizes)
            for clients, examples, most in drawn
        )

    def _pools(
        self, plan: Plan, clients: Int[np.ndarray, " clients"]
    ) -> dict[str, Shaped[Array, "devices rows ..."]]:
        """The rows of a round's clients, read."""
        dataset = self.dataset
        starts, stops = dataset.offsets[clients], dataset.offsets[clients + 1]
        return self._placement.pools(
            dataset.columns,
            lambda name, i: read_rows(dataset, name, int(starts[i]), int(stops[i])),
            plan,
            lambda place: client_name(dataset, int(clients[place])),
        )

    def cohorts(
        self, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Cohort]]:
        """Makes the cohorts of successive rounds, ahead of their use.

        **Arguments:**

        - `start`: The first round.
        - `stop`: The round to stop before. By default there is no end.

        **Returns:**

        An iterator of pairs of a round's number and its cohort.
        """
        start = check_count("start", start, least=0)
        stop = None if stop is None else check_count("stop", stop, least=0)
        rounds = itertools.count(start) if stop is None else range(start, stop)
        return prefetched(((r, self(r)) for r in rounds), self.prefetch)

    def stacks(
        self, calls: Iterable[range], size: int
    ) -> Iterator[tuple[range, Cohorts]]:
        """Makes the cohorts of several rounds at a time, ahead of their use.

        **Arguments:**

        - `calls`: The rounds of each call, at most `size` of them.
        - `size`: How many rounds there is room for.
        """
        return prefetched(((c, self._stack(c, size)) for c in calls), self.prefetch)

    def _stack(self, rounds: range, size: int) -> Cohorts:
        planned = [(round, *self._plan(round)) for round in rounds]
        plans, to = [plan for _, plan, _ in planned], self._placement
        infos = [slots_of(self._info, r, clients, plan) for r, plan, clients in planned]
        if self.resident:
            return make_cohorts(plans, size, self._resident_examples, (), to, infos)
        pools = [self._pools(plan, clients) for _, plan, clients in planned]
        return make_cohorts(plans, size, None, pools, to, infos)

    def __repr__(self) -> str:
        clock = "" if self.clock is None else f"  clock={self.clock!r},\n"
        return (
            f"Loader(\n  {self.dataset!r},\n  {self.sampler!r},\n  {self.batching!r},"
            f"\n  num_devices={self.num_devices},\n  resident={self.resident},"
            f"\n{clock})"
        )

    @functools.cached_property
    def _resident_examples(self) -> dict[str, Shaped[Array, "devices rows ..."]]:
        dataset, put = self.dataset, self._placement.replicate
        whose, rows = owner_of(dataset), dataset.num_examples
        return {
            name: put(on_device_dtype(name, read_rows(dataset, name, 0, rows), whose))
            for name in dataset.columns
        }
