"""From a round's number to a cohort on the devices."""

import threading
import time
from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import equifed.data as eqd
from equifed._cohort import NO_CLIENT, NO_ROW
from equifed.data._column import ChunkedColumn
from equifed.data._plan import _members, ladder
from equifed.data._prefetch import prefetched
from equifed.data._room import Needs


def dataset_of(sizes):
    """Every example tells its client and its place among that client's."""
    return eqd.FederatedDataset.from_mapping(
        {
            f"c{i}": {
                "x": (1000 * i + np.arange(n)).astype(np.int32),
                "pair": np.full((n, 2), i, np.uint8),
            }
            for i, n in enumerate(sizes)
        }
    )


def mesh_of(num_devices):
    return jax.make_mesh(
        (num_devices,),
        ("clients",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:num_devices],
    )


def contents(cohort):
    """What each slot does, read as `ClientData` reads it: client -> its steps."""
    cohort = jtu.tree_map(np.asarray, cohort)
    slots = []
    for d in range(cohort.num_devices):
        x = cohort.examples["x"][d]
        for s in range(cohort.num_slots):
            first, n = cohort.first[d, s], cohort.num_examples[d, s]
            order = cohort.order[d, cohort.start[d, s] : cohort.stop[d, s]]
            steps = [
                tuple(x[row] if row != NO_ROW else NO_ROW for row in step)
                for step in order
            ]
            slots.append(
                (int(cohort.index[d, s]), steps, x[first : first + n].tolist())
            )
    full = [slot for slot in slots if slot[0] != NO_CLIENT]
    for _, steps, examples in [slot for slot in slots if slot[0] == NO_CLIENT]:
        assert steps == examples == []
    return sorted(full)


ragged = st.lists(st.sampled_from([0, 1, 2, 3, 7, 20]), min_size=1, max_size=8).filter(
    sum
)
batchings = st.sampled_from(
    [
        eqd.Epochs(2, batch_size=3),
        eqd.Epochs(1, batch_size=100),
        eqd.Epochs(2, batch_size=3, last="drop"),
        eqd.Epochs(1, batch_size=3, last="fill"),
        eqd.Steps(2, batch_size=4),
    ]
)


@given(ragged, batchings, st.integers(0, 9), st.data())
@settings(deadline=None, max_examples=30)
def test_placement_changes_nothing(sizes, batching, round, data):
    dataset = dataset_of(sizes)
    clients = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=9))
    cohorts = [
        eqd.cohort(
            dataset, batching, clients=clients, round=round, mesh=mesh, resident=r
        )
        for mesh in (None, mesh_of(1), mesh_of(3))
        for r in (True, False)
    ]
    expected = contents(cohorts[0])
    assert [slot[0] for slot in expected] == sorted(clients)
    for client, steps, examples in expected:
        assert examples == [1000 * client + i for i in range(sizes[client])]
        assert len(steps) == batching.num_steps(np.array([sizes[client]]))[0]
        visited = [x for step in steps for x in step if x != NO_ROW]
        assert set(visited) <= set(examples)
        if isinstance(batching, eqd.Epochs) and batching.last == "short":
            assert sorted(visited) == sorted(batching.num_epochs * examples)
    for cohort in cohorts:
        assert contents(cohort) == expected
        start, stop, index = map(np.asarray, (cohort.start, cohort.stop, cohort.index))
        steps = stop - start
        assert (np.diff(steps, axis=1) <= 0).all()  # longest first
        assert (np.diff(index == NO_CLIENT, axis=1) >= 0).all()  # the empty last
        for array in (start, stop, index, cohort.first, cohort.num_examples):
            assert array.dtype == np.int32


def test_a_cohort_does_not_depend_on_those_before_it():
    dataset = eqd.digits()
    make = lambda: eqd.Loader(  # noqa: E731
        dataset, eqd.UniformSampler(5, seed=2), eqd.Epochs(batch_size=20)
    )
    loader = make()
    cohorts = dict(loader.cohorts(0, 6))
    assert list(cohorts) == list(range(6))
    for round in (5, 2):
        for a, b in zip(
            jtu.tree_leaves(make()(round)), jtu.tree_leaves(cohorts[round]), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    other = eqd.Loader(dataset, eqd.AllClients(seed=3), eqd.Epochs(batch_size=20))
    assert not np.array_equal(other(0).order, other(1).order)


def test_a_client_drawn_twice_has_two_equal_slots():
    cohort = eqd.cohort(
        dataset_of([5, 9]), eqd.Epochs(batch_size=2), clients=[1, 0, 1], resident=False
    )
    _, one, two = contents(cohort)
    assert one == two
    assert cohort.examples["x"].shape[1] == ladder(14)  # its rows are sent once


def test_shapes_are_few():
    dataset = dataset_of(np.random.default_rng(0).integers(1, 60, 200))
    for sampler, most in ((eqd.UniformSampler(30), 1), (eqd.PoissonSampler(0.15), 3)):
        loader = eqd.Loader(dataset, sampler, eqd.Epochs(batch_size=5), resident=False)
        shapes = {
            tuple(x.shape for x in jtu.tree_leaves(loader(round)))
            for round in range(40)
        }
        assert len(shapes) <= most
    fixed = eqd.Loader(dataset, eqd.UniformSampler(30), eqd.Epochs(batch_size=5))
    assert fixed(0).num_slots == 30


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize(
    "sampler",
    [eqd.UniformSampler(10), eqd.ShuffledSampler(50), eqd.PoissonSampler(0.05)],
    ids=repr,
)
def test_nearly_all_rounds_have_one_shape(sampler, num_devices):
    # Few clients have most of the examples, so that rounds differ by a factor of three.
    sizes = np.random.default_rng(0).lognormal(3, 1, 200).astype(int) + 1
    loader = eqd.Loader(
        *(dataset_of(sizes), sampler, eqd.Epochs(batch_size=10)),
        mesh=None if num_devices == 1 else mesh_of(num_devices),
    )
    plans = [loader._plan(round)[0] for round in range(100)]
    assert len({(plan.order.shape, plan.index.shape) for plan in plans}) == 1
    needs = [int((plan.stop - plan.start).sum(1).max()) for plan in plans]
    assert max(needs) > 1.25 * min(needs)  # They would not share a rung.
    assert plans[0].order.shape[1] <= 4 * np.mean(needs)


def test_a_round_without_room_has_a_shape_of_its_own():
    loader = eqd.Loader(
        dataset_of([4, 4, 4, 4, 4, 30]), eqd.UniformSampler(1), eqd.Epochs(batch_size=1)
    )
    vars(loader)["_room"] = Needs(steps=5, slots=1)
    needs = [int(loader(round).stop.max()) for round in range(20)]
    assert set(needs) == {4, 30}
    assert [loader(r).order.shape[1] for r in range(20)] == [
        5 if need == 4 else 40 for need in needs
    ]


def test_a_sampler_of_ones_own_is_not_asked_ahead():
    asked = []

    class Own(eqd.AbstractSampler):
        seed: int = 0

        def __call__(self, round, num_clients):
            asked.append(round)
            return np.array([round])

        def max_clients(self, num_clients):
            return 1

    loader = eqd.Loader(dataset_of([4, 40]), Own(), eqd.Epochs(batch_size=1))
    assert [loader(round).order.shape[1] for round in (0, 1)] == [4, 40]
    assert asked == [0, 0, 1]


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_the_ladder_is_coarse_but_close(size):
    rung = ladder(size)
    assert max(size, 1) <= rung <= max(size * 1.25, 1)
    assert ladder(rung) == rung


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(sum))
def test_devices_share_the_steps_evenly(sizes):
    dataset = dataset_of(sizes)
    cohort = eqd.cohort(dataset, eqd.Epochs(batch_size=1), mesh=mesh_of(4))
    steps = np.asarray(cohort.stop - cohort.start)
    loads = steps.sum(axis=1)
    # Longest first to the least loaded: no device leads by more than its last client.
    assert loads.max() - loads.min() <= max(sizes)
    assert loads.max() <= sum(sizes) / 4 + max(sizes) * 3 / 4


def test_clients_without_steps_are_spread():
    cohort = eqd.cohort(
        dataset_of([9] + [0] * 15), eqd.Steps(5, batch_size=1), mesh=mesh_of(4)
    )
    assert ((np.asarray(cohort.index) != NO_CLIENT).sum(axis=1) == 4).all()


@pytest.mark.parametrize("num_devices", [2, 3, 4])
def test_who_can_is_dealt_home(num_devices):
    """By change of places among those of equally many steps, and so at no cost."""
    rng, size = np.random.default_rng(num_devices), 40
    for _ in range(20):
        clients = rng.choice(size, rng.integers(1, 25), replace=False)
        steps = rng.integers(0, 4, len(clients))
        before = _members(clients, steps, num_devices, None)
        after = _members(clients, steps, num_devices, size)
        for old, new in zip(before, after, strict=True):
            assert steps[old].tolist() == steps[new].tolist()
        home = clients // -(-size // num_devices)
        for number in range(4):
            alike = steps == number
            places = [alike[members].sum() for members in after]
            can = np.bincount(home[alike], minlength=num_devices)
            at_home = [(alike & (home == d))[m].sum() for d, m in enumerate(after)]
            assert at_home == np.minimum(places, can).tolist()


def test_arrays_lie_on_their_devices():
    dataset = dataset_of([3, 4, 5])
    for resident in (True, False):
        loader = eqd.Loader(
            dataset,
            eqd.AllClients(),
            eqd.Epochs(batch_size=2),
            mesh=mesh_of(2),
            resident=resident,
        )
        assert loader.num_devices == 2
        for leaf in jtu.tree_leaves(loader(0)):
            assert leaf.sharding.spec == jax.sharding.PartitionSpec("clients")
            assert {s.data.shape[0] for s in leaf.addressable_shards} == {1}
    loader = eqd.Loader(dataset, eqd.AllClients(), eqd.Epochs(batch_size=2))
    assert loader.resident
    assert loader(0).examples["x"] is loader(1).examples["x"]


def test_other_mesh_axes_hold_copies():
    mesh = jax.make_mesh(
        (2, 2), ("clients", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    plain = eqd.cohort(dataset_of([3, 4, 5]), eqd.Epochs(batch_size=2))
    for resident in (True, False):
        cohort = eqd.cohort(
            dataset_of([3, 4, 5]),
            eqd.Epochs(batch_size=2),
            mesh=mesh,
            resident=resident,
        )
        assert contents(cohort) == contents(plain)


def test_size_decides_what_is_resident(monkeypatch):
    monkeypatch.setattr("equifed.data._placement.RESIDENT_BYTES", 100)
    loader = eqd.Loader(dataset_of([3]), eqd.AllClients(), eqd.Epochs(batch_size=2))
    assert loader.resident
    loader = eqd.Loader(dataset_of([30]), eqd.AllClients(), eqd.Epochs(batch_size=2))
    assert not loader.resident


def test_an_empty_round():
    loader = eqd.Loader(
        dataset_of([3]), eqd.PoissonSampler(1e-9), eqd.Epochs(batch_size=2)
    )
    assert contents(loader(0)) == []


def test_64_bits_are_cut_only_where_they_fit():
    wide = eqd.FederatedDataset.from_mapping(
        {"a": {"x": np.array([1, 2]), "y": np.array([0.5, 1.5])}}
    )
    for resident in (True, False):
        cohort = eqd.cohort(wide, eqd.Epochs(batch_size=2), resident=resident)
        assert cohort.examples["x"].dtype == np.int32
        assert cohort.examples["y"].dtype == np.float32
    huge = eqd.FederatedDataset.from_mapping({"a": {"x": np.array([2**40])}})
    with pytest.raises(ValueError, match="'x' has values from .* do not fit int32"):
        eqd.cohort(huge, eqd.Epochs(batch_size=2))
    with jax.enable_x64(True):  # noqa: FBT003
        loader = eqd.Loader(
            wide, eqd.AllClients(), eqd.Epochs(batch_size=2), resident=False
        )
        # The thread must heed the setting of the caller.
        ((_, cohort),) = loader.cohorts(0, 1)
        assert cohort.examples["y"].dtype == np.float64


# Prefetching.


def test_prefetching_is_so_deep_and_no_deeper():
    made = []

    def items():
        for i in range(10):
            made.append(i)
            yield i

    iterator = prefetched(items(), 3)
    assert next(iterator) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    assert list(iterator) == list(range(1, 10))


def threads():
    return [t for t in threading.enumerate() if t.name == "equifed-prefetch"]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_errors_come_where_they_happened_and_threads_end(depth):
    before = len(threads())

    def items():
        yield 1
        raise RuntimeError("the disk is gone")

    iterator = prefetched(items(), depth)
    assert next(iterator) == 1
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(iterator)
    loader = eqd.Loader(
        dataset_of([3]), eqd.AllClients(), eqd.Epochs(batch_size=2), prefetch=depth
    )
    cohorts = loader.cohorts()
    assert next(cohorts)[0] == 0
    assert len(threads()) == before + (depth > 0)
    cohorts.close()  # pyright: ignore
    assert len(threads()) == before


# Bad input.


def test_bad_input():
    dataset = dataset_of([3, 4])
    batching = eqd.Epochs(batch_size=2)
    with pytest.raises(ValueError, match="`cohort_size` is 3, but the population has"):
        eqd.Loader(dataset, eqd.UniformSampler(3), batching)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(
        ValueError, match=r"axis 'clients', but its axes are \('data',\)"
    ):
        eqd.Loader(dataset, eqd.AllClients(), batching, mesh=mesh)
    with pytest.raises(ValueError, match="`prefetch` must be at least 0, got -1"):
        eqd.Loader(dataset, eqd.AllClients(), batching, prefetch=-1)
    with pytest.raises(ValueError, match="no client number 2; they go from 0 to 1"):
        eqd.cohort(dataset, batching, clients=[0, 2])
    text = dataset.map(lambda c: {**c, "text": np.full(7, "abc")})
    with pytest.raises(ValueError, match=r"'text' holds text.*dataset.map\(...\)"):
        eqd.Loader(text, eqd.AllClients(), batching)


class Liar(eqd.AbstractBatching):
    batch_size: int = 2

    def order(self, num_examples, rng):
        return np.zeros((3, 2), int)

    def num_steps(self, num_examples):
        return np.full(num_examples.shape, 2)


def test_a_batching_that_contradicts_itself_is_refused():
    with pytest.raises(
        ValueError, match=r"`Liar.order` laid out.* \(3, 2\).* \(2, 2\)"
    ):
        eqd.cohort(dataset_of([3]), Liar())


# Errors name the client whose row it was.


class Picky(eqd.AbstractBatching):
    """Fails for clients of one size, or gives them something else."""

    batch_size: int = 2
    does: str = "raises"

    def order(self, num_examples, rng):
        rows = np.full((num_examples, 2), NO_ROW)
        if num_examples != 4:
            return rows
        return rows[:1] if self.does == "is short" else rows / (num_examples * 0 / 0)

    def num_steps(self, num_examples):
        return num_examples


class BrokenDisk(ChunkedColumn):
    """A column of which some rows cannot be read."""

    bad = {9, 13}

    def __getitem__(self, rows):
        if set(range(*rows.indices(len(self)))) & self.bad:
            raise OSError(5, "Input/output error")
        return ChunkedColumn.__getitem__(self, rows)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("resident", [True, False])
def test_errors_name_whose_row_it_was(resident, prefetch):
    def first(dataset, batching: Any = eqd.Epochs(batch_size=2)):  # noqa: B008
        loader = eqd.Loader(
            dataset, eqd.AllClients(), batching, resident=resident, prefetch=prefetch
        )
        return next(loader.cohorts())

    dataset = dataset_of([3, 5, 4, 2])
    with pytest.raises(
        ValueError,
        match="`Picky.order` for client 'c2', who has 4 examples, in round 0 failed: Z",
    ):
        first(dataset, Picky())
    with pytest.raises(ValueError, match=r"shape \(1, 2\) for client 'c2', who has 4"):
        first(dataset, Picky(does="is short"))
    big = dataset.map(lambda c: {"x": c["x"].astype(np.int64) * 1000_000})
    with pytest.raises(ValueError, match="3000000000, is of client 'c3'"):
        first(big)
    number, cohort = first(big.select(["c0", "c1", "c2"]))
    assert number == 0
    assert sorted(np.asarray(cohort.index)[0].tolist()) == [0, 1, 2]
    broken = dataset_of([3, 5, 4, 2])
    broken.columns["x"] = BrokenDisk([np.arange(14)])
    with pytest.raises(
        OSError, match="Reading column 'x' of client 'c2' failed: OSError: .*output"
    ):
        first(broken)
