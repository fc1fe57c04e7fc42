"""Where clients' states lie changes no bit of what is trained, and nothing is lost."""

import errno
import functools
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import unittest.mock
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

import equifed as eqf
from equifed import testing
from equifed._cohort import NO_CLIENT
from equifed._mesh import clients_each, clients_mesh
from equifed._store import choose, mover, rows_of, Store, store_of
from equifed._store.choose import begun
from equifed._store.disk import DiskPlace
from equifed._store.spread import route
from equifed.data import _placement

from .algorithms import ALGORITHMS
from .shared import line_loss


BATCHING = eqf.data.Epochs(1, batch_size=4)
DATASET = testing.ragged_clients((5, 0, 3, 8, 6, 2, 7))
SIZE = len(DATASET)
KEY = jr.key(0)
LOSS = line_loss  # Whose key no place could change.
SCAFFOLD: Any = eqf.Scaffold(LOSS, optax.sgd(0.1), BATCHING)
MESH = jax.make_mesh((2,), ("clients",))


def loader_of(mesh=None, count=3, batching=BATCHING, info=None):
    sampler = eqf.data.UniformSampler(count, seed=1)
    return eqf.data.Loader(DATASET, sampler, batching, mesh=mesh, info=info)


def train(where, mesh=None, *, algorithm=SCAFFOLD, num_rounds=6, info=None, **kwargs):
    return eqf.train(
        algorithm,
        testing.Linear(),
        loader_of(mesh, batching=algorithm.batching, info=info),
        num_rounds=num_rounds,
        key=KEY,
        client_states=where,
        **kwargs,
    )


@functools.cache
def straight(num_rounds=6, mesh=None):
    """What all trainings are held against, in arrays on the device."""
    return train("device", mesh, num_rounds=num_rounds)


def assert_same(x, y):
    """The same bits, wherever they lie."""
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()


def place_of(solution):
    store = store_of(solution.state.clients)
    return "device" if store is None else store.place.name


# On a mesh, too; `ordered` is several programs, and of one device.
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("mesh", [None, MESH], ids=["alone", "mesh"])
def test_all_places_give_the_same_bits(tmp_path, mesh, ordered):
    executor = eqf.Executor(ordered=ordered)
    expected = train("device", mesh, executor=executor)
    assert isinstance(jax.tree.leaves(expected.state.clients)[0], jax.Array)
    assert np.asarray(expected.state.clients.weight).any()
    for where in ("host", tmp_path / "states", *(["sharded"] if mesh else [])):
        got = train(where, mesh, executor=executor)
        assert place_of(got) != "device"
        assert isinstance(got.state.clients.weight, eqf.ClientRows)
        assert_same(got.state, expected.state)
        assert got.history == expected.history


@pytest.mark.exact
def test_all_places_give_the_same_bits_as_users_compile_it(tmp_path):
    for name, mesh in (("Scaffold-1", MESH), ("Scaffnew", None)):
        algorithm = ALGORITHMS[name](testing.noisy_loss, BATCHING)
        expected = train("device", mesh, algorithm=algorithm)
        for where in ("host", tmp_path / name, *(["sharded"] if mesh else [])):
            got = train(where, mesh, algorithm=algorithm)
            assert_same(got.state, expected.state)
            assert got.history == expected.history


def test_personal_leaves_lie_anywhere(tmp_path):
    """Whose initial rows are those of the model, and not zero."""
    model = testing.Linear()
    options = {
        "algorithm": eqf.FedPer(LOSS, optax.sgd(0.1), BATCHING),
        "roles": eqf.roles(model, personal=lambda m: m.bias),
        "num_rounds": 2,
    }
    expected = train("device", **options)

    def own(state):
        parts = (options["algorithm"], state, DATASET, LOSS)
        return eqf.evaluate_personal(*parts, clients=DATASET).values

    for where in ("host", tmp_path / "states"):
        state = train(where, **options).state
        assert_same(state, expected.state)
        assert_same(own(state), own(expected.state))
    expected = train("device", MESH, **options)
    spread = train("sharded", MESH, **options)
    assert place_of(spread) == "spread over the mesh"
    assert_same(spread.state, expected.state)
    assert spread.history == expected.history
    assert any(np.asarray(x).any() for x in jax.tree.leaves(spread.state.clients))


KEEP = (
    "Scaffold-1",
    "Scaffold-2",
    "FedDyn",
    "FedVARP",
    "MIFA",
    "FedSpeed",
    "FedDC",
    "FedLESAM",
    "FedSMOO",
    "Scaffnew",
    "FedSophia",
    "DiLoCo",
    "StreamingDiLoCo",
    "Ditto",
    "APFL",
    "PFedMe",
    "MOON",
    "FedPer",
    "LGFedAvg",
    "FedBN",
    "FedRep",
    "FedAlt",
    "LocalOnly",
    "FedALA",
    "FedRoD",
    "FedProto",
    "PowerOfChoice",
    "CA2FL",
    "Oort",
    "FedEP",
    "EF21",
)
LONGER = eqf.data.Epochs(2, batch_size=4)  # As some of them need.


def of_the_table(name):
    algorithm = ALGORITHMS[name](LOSS, LONGER)
    needs: Any = {role: lambda m: m.bias for role in algorithm.needs}
    return algorithm, eqf.roles(testing.Linear(), **needs) if needs else None


def up_to_date(round, clients):
    """What those that train clients from old models ask for."""
    return {"staleness": np.zeros(len(clients), np.int32)}


def test_who_keeps_something():
    def keeps(name):
        algorithm, roles = of_the_table(name)

        def first():
            model = testing.Linear()
            return algorithm.init(model, num_clients=SIZE, key=KEY, roles=roles)

        return jax.tree.leaves(eqx.filter_eval_shape(first).clients)

    assert tuple(filter(keeps, ALGORITHMS)) == KEEP


@pytest.mark.parametrize("name", KEEP)
def test_whatever_clients_keep_may_lie_anywhere(tmp_path, name):
    """Begun, and brought to rounds and back. The rounds themselves are one program,
    wherever the states lie: see below for some, and `Scaffold` everywhere."""
    algorithm, roles = of_the_table(name)
    loader, rng = loader_of(batching=LONGER), np.random.default_rng(0)
    indices = [np.asarray(loader(i).index) for i in range(2)]

    def movers():
        for where in ("device", "host", tmp_path / "states"):
            state = algorithm.init(
                testing.Linear(),
                num_clients=SIZE,
                key=KEY,
                roles=roles,
                client_states=where,
            )
            store = store_of(state.clients)
            assert (store is None) == (where == "device")
            if store is not None:
                store.place.begin()
            yield mover(state.clients, None)

    (device, *stored), accept = movers(), jnp.asarray(True)
    for index in indices:
        slots = device.take(index)
        new = jtu.tree_map(lambda x: rng.normal(size=x.shape).astype(x.dtype), slots)
        for each in stored:
            assert_same(each.states, device.states)
            assert_same(each.take(index), slots)
            each.put(index, new, accept)
        device.put(index, new, accept)
    for each in stored:
        assert_same(each.states, device.states)


# One around another, one whose server works with what clients keep, and the memory of a
# compressor.
@pytest.mark.parametrize("name", ["PowerOfChoice", "CA2FL", "EF21"])
def test_training_ends_in_the_same_bits_wherever_they_lie(tmp_path, name):
    algorithm, roles = of_the_table(name)
    options = {"algorithm": algorithm, "roles": roles, "num_rounds": 2}
    options["info"] = up_to_date
    expected = train("device", **options)
    for where in ("host", tmp_path / "states"):
        got = train(where, **options)
        assert place_of(got) != "device"
        assert_same(got.state, expected.state)
        assert got.history == expected.history


def test_debugged_rounds():
    one_step = eqf.data.Steps(1, batch_size=4)  # Operation by operation takes time.
    how: Any = {"executor": eqf.Executor(debug=True), "num_rounds": 1}
    how["algorithm"] = eqf.Scaffold(LOSS, optax.sgd(0.1), one_step)
    expected, got = train("device", **how), train("host", **how)
    assert_same(got.state, expected.state)
    assert np.asarray(got.state.clients.weight).any()


def test_a_block_size_that_is_tried_leaves_the_rows_alone():
    executor = eqf.Executor(block_size="auto")
    got = train("host", num_rounds=2, executor=executor)
    state = SCAFFOLD.init(testing.Linear(), num_clients=SIZE)
    store = store_of(got.state.clients)
    assert store is not None
    # Rounds that were tried have the first one's clients, and would be counted.
    assert store.writes == 2
    assert state.clients.weight.shape == got.state.clients.weight.shape


def test_rounds_go_on_from_any_place(tmp_path):
    """From the device to the host, to a folder and back; what was given stays."""
    state = SCAFFOLD.init(testing.Linear(), num_clients=SIZE)
    for number, where in ((2, "host"), (4, tmp_path / "a"), (5, None), (6, "device")):
        before = jax.tree.map(np.asarray, state)
        given = state
        steps = eqf.rounds(
            *(SCAFFOLD, state, loader_of()),
            num_rounds=number,
            key=KEY,
            client_states=where,
        )
        for state, _ in steps:  # noqa: B007
            pass
        if number != 5:  # In a folder rows are changed in place.
            assert_same(given, before)
    assert isinstance(state.clients.weight, jax.Array)
    assert_same(state, straight().state)


def test_a_single_round_returns_a_new_state(tmp_path):
    cohort = loader_of()(0)
    state = SCAFFOLD.init(testing.Linear(), num_clients=SIZE)
    expected, _ = SCAFFOLD.round(state, cohort, key=KEY)
    hosted = SCAFFOLD.init(testing.Linear(), num_clients=SIZE, client_states="host")
    got, _ = SCAFFOLD.round(hosted, cohort, key=KEY)
    assert_same(got, expected)
    assert_same(hosted, state)
    arrays = jax.tree.map(lambda x: x, state)
    object.__setattr__(arrays, "clients", jax.tree.map(np.asarray, state.clients))
    got, _ = SCAFFOLD.round(arrays, cohort, key=KEY)
    assert_same(got, expected)
    assert_same(arrays, state)
    folder = tmp_path / "states"
    stored = SCAFFOLD.init(testing.Linear(), num_clients=SIZE, client_states=folder)
    with pytest.raises(ValueError, match="a round changes them in place"):
        SCAFFOLD.round(stored, cohort, key=KEY)
    assert not folder.exists()
    with pytest.raises(ValueError, match="a round that is traced cannot read it"):
        jax.eval_shape(lambda key: SCAFFOLD.round(hosted, cohort, key=key)[1], KEY)


def test_by_default_they_lie_where_they_fit(monkeypatch):
    assert place_of(train(None, num_rounds=0)) == "device"
    monkeypatch.setattr(_placement, "RESIDENT_BYTES", 50)
    assert place_of(train(None, num_rounds=0)) == "on the host"
    monkeypatch.setattr(choose, "_free_memory", lambda: 100)
    with pytest.raises(ValueError, match="Give a folder on a disk: `client_states="):
        train(None, num_rounds=0)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="several processes share this training"):
        store_at("host")
    monkeypatch.undo()
    # Of FedAvg clients keep nothing.
    plain = eqf.FedAvg(LOSS, optax.sgd(0.1), BATCHING)
    assert train("host", algorithm=plain, num_rounds=0).state.clients is None


@pytest.mark.parametrize(
    ("fits", "free", "platform", "place"),
    [
        (280, 0, "gpu", "device"),
        (279, 0, "gpu", "sharded"),
        (70, 0, "gpu", "sharded"),
        (69, 560, "gpu", "host"),
        (69, None, "gpu", "host"),
        (69, 559, "gpu", ValueError),
        # The devices of a CPU have one memory.
        (279, 560, "cpu", "host"),
        (279, 559, "cpu", ValueError),
    ],
)
@pytest.mark.parametrize("axes", [{"clients": 4}, {"clients": 2, "model": 2}])
def test_the_place_by_size(monkeypatch, fits, free, platform, place, axes):
    """Ten clients that keep 28 bytes, on a mesh of four devices."""
    one = {"a": np.zeros(5, np.float32), "b": np.zeros(2, np.int32)}
    device = unittest.mock.Mock(platform=platform)
    mesh = unittest.mock.Mock(spec=Mesh)
    mesh.devices = np.array([device] * 4).reshape(tuple(axes.values()))
    mesh.size, mesh.shape = 4, axes
    placement = unittest.mock.Mock(fits=lambda size: size <= fits)
    monkeypatch.setattr(choose, "Placement", lambda mesh: placement)
    monkeypatch.setattr(choose, "_free_memory", lambda: free)
    if len(axes) > 1 and place == "sharded":
        # Another axis has copies of them: nothing is spread over it.
        place = ValueError
    if place is ValueError:
        with pytest.raises(ValueError, match="keep 2.8e-07 GB together"):
            choose._by_size(one, 10, mesh)
    else:
        assert choose._by_size(one, 10, mesh) == place


@pytest.mark.parametrize(
    ("where", "kwargs", "words"),
    [
        ("disk", {}, "'device', 'sharded', 'host' or a folder, got 'disk'. A folder"),
        ("sharded", {}, "whose only axis is 'clients', got no mesh"),
        ("host", {"rounds_per_call": 2}, "so that a call runs one, got `rounds_per_ca"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_compiled(where, kwargs, words):
    with pytest.raises(ValueError, match=words) as raised:
        train(where, **kwargs)
    assert len(str(raised.value)) < 600


ONE = {
    "a": np.asarray([1.5, -0.0, 2], np.float32),
    "flag": np.asarray(True),
    "half": np.asarray([[0.1], [3]], ml_dtypes.bfloat16),
    "none": np.zeros((0, 2), np.float32),
    "count": np.asarray(0, np.int32),
}


def store_at(where, num_clients=SIZE, one=ONE, mesh=None):
    states = begun(one, num_clients, lambda x, n: None, where, mesh)
    store = store_of(states)
    assert store is not None
    store.place.begin()
    return store


def some(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(count, *x.shape)) * 3).astype(x.dtype)
        for x in jax.tree.leaves(ONE)
    ]


@pytest.fixture(params=["host", "disk", "sharded"])
def store(request, tmp_path):
    mesh = clients_mesh(MESH) if request.param == "sharded" else None
    where = tmp_path / "states" if request.param == "disk" else request.param
    return store_at(where, mesh=mesh)


def test_rows_are_read_as_they_were_written(store):
    """Against NumPy, with an initial row that is not zero, and every kind of number."""
    wanted = [np.repeat(x[None], SIZE, 0) for x in jax.tree.leaves(ONE)]
    rows = jax.tree.leaves(rows_of(store))
    for seed, numbers in enumerate(([0, 3], [5], [3, 6, 1], [])):
        numbers = np.array(numbers, np.int64)
        for x, new in zip(wanted, some(len(numbers), seed), strict=True):
            x[numbers] = new
        store.write(numbers, some(len(numbers), seed))
        assert_same(rows, wanted)
    assert set(np.flatnonzero(store.written)) == {0, 1, 3, 5, 6}
    x, y = rows[0], wanted[0]
    assert (x.shape, x.dtype, len(x)) == (y.shape, y.dtype, SIZE)
    for index in (3, -1, slice(2, 5), [5, 0, 5], np.arange(SIZE) > 2, (2, 1)):
        assert_same(x[index], y[index])
    deeper = ([0, 2], [1, 0]), (slice(1, 4), [1, 0]), (..., 0), (1, ..., 0), (None, 3)
    for x, y in zip(rows, wanted, strict=True):
        for index in (3, np.arange(SIZE) > 2, [[0, 1], [5, 3]], None, ...):
            assert_same(x[index], y[index])
        for index in deeper if y.ndim > 1 and y.size else ():
            assert_same(x[index], y[index])
    x, y = rows[0], wanted[0]
    assert_same(jtu.tree_map(jnp.asarray, rows), wanted)
    for index in (SIZE, "a", 1.5):
        with pytest.raises(IndexError, match="Rows are read by the numbers of clients"):
            x[index]


def test_moved_to_a_round_and_back(store):
    """Empty slots and twins; a round that is rejected; and what is read ahead is as new
    as what is read in turn."""
    mesh = getattr(store.place, "mesh", None)
    states, whole = (
        rows_of(store),
        begun(
            ONE,
            SIZE,
            lambda one, n: jtu.tree_map(lambda x: jnp.asarray(np.stack([x] * n)), one),
            "device",
            None,
        ),
    )
    stored, device = mover(states, mesh), mover(whole, None)
    index = np.array([[4, 2, NO_CLIENT], [4, 0, NO_CLIENT]], np.int32)
    later = np.array([[2, 5, NO_CLIENT], [6, NO_CLIENT, NO_CLIENT]], np.int32)
    rounds = ((index, True), (later, False), (index, True), (later, True))
    for number, (now, accept) in enumerate(rounds):
        slots = stored.take(now)
        assert_same(slots, device.take(now))
        new = jax.tree.unflatten(
            jax.tree.structure(ONE), [x.reshape(2, 3, *x.shape[1:]) for x in some(6)]
        )
        # Twins do the same.
        new = jax.tree.map(lambda x: np.where(x == x[1, 0], x, x + x) + x, new)
        for x in jax.tree.leaves(new):
            x[1, 0] = x[0, 0]
        for each in (stored, device):
            if number + 1 < len(rounds):
                each.ahead(rounds[number + 1][0])
            each.put(now, jax.tree.map(jnp.asarray, new), jnp.asarray(accept))
        assert_same(stored.states, device.states)


def test_rows_that_are_spread_come_from_anywhere():
    """Whoever is dealt to which device: nobody at home, all, or some."""
    num_devices = 4  # Of two are the other tests.
    mesh = clients_mesh(jax.make_mesh((num_devices,), ("clients",)))
    store = store_at("sharded", mesh=mesh)
    store.write(np.arange(SIZE), some(SIZE))
    wanted = [np.array(x) for x in jax.tree.leaves(rows_of(store))]
    moving = mover(rows_of(store), mesh)
    share, rng = clients_each(SIZE, num_devices), np.random.default_rng(0)
    home = np.full((num_devices, share), NO_CLIENT, np.int32)
    home.reshape(-1)[:SIZE] = np.arange(SIZE)
    assert route(home, share).rows.size == 0
    assert (
        route(np.roll(home, 1, 0), share).rows.shape[2] == 1 << (share - 1).bit_length()
    )
    anyhow = [rng.permutation(home.reshape(-1)).reshape(home.shape) for _ in range(4)]
    for index in (home, np.roll(home, 1, 0), *anyhow, home[::-1]):
        numbers, taken = index[index != NO_CLIENT], moving.take(index)
        for x, y in zip(jax.tree.leaves(taken), wanted, strict=True):
            assert_same(np.asarray(x)[index != NO_CLIENT], y[numbers])
        new = jtu.tree_map(lambda x: x + x, taken)
        moving.put(index, new, jnp.asarray(True))
        for x in wanted:
            x[numbers] += x[numbers]
        assert_same(jax.tree.leaves(moving.states), wanted)


def test_the_next_rows_are_read_beside_the_running_round():
    store: Any = store_at("host")
    moving: Any = mover(rows_of(store), None)
    read = []

    class Spy:
        def __getattr__(self, name):
            return getattr(store_place, name)

        def read(self, leaf, numbers, out):
            read.append(set(numbers.tolist()))
            store_place.read(leaf, numbers, out)

    store_place, store.place = store.place, Spy()
    slots = moving.take(np.array([[1, 2]]))
    read.clear()
    moving.ahead(np.array([[2, 3]]))
    moving._ahead.future.result()
    assert set().union(*read) == {3}  # Of both rounds is 2, which is not there yet.
    read.clear()
    moving.put(np.array([[1, 2]]), slots, jnp.asarray(True))
    moving.take(np.array([[2, 3]]))
    assert set().union(*read) == {2}


def test_a_loader_may_look_ahead_to_an_error():
    """It is raised at its turn, and the rounds before it count."""

    class Fails(eqf.data.AbstractLoader):
        batching = BATCHING

        @property
        def num_clients(self):
            return SIZE

        def cohorts(self, start=0, stop=None):
            for round, cohort in loader_of().cohorts(start, stop):
                if round == 2:
                    raise RuntimeError("no more")
                yield round, cohort

    state = SCAFFOLD.init(testing.Linear(), num_clients=SIZE, client_states="host")
    steps = eqf.rounds(SCAFFOLD, state, Fails(), num_rounds=4, key=KEY)
    assert [int(metrics["clients"]) > 0 for _, metrics in [next(steps), next(steps)]]
    with pytest.raises(RuntimeError, match="no more") as raised:
        next(steps)
    assert_same(raised.value.state, straight(2).state)  # pyright: ignore


def test_who_never_took_part_takes_no_room(tmp_path):
    one = {"big": np.full(2500, 0.5, np.float32), "small": np.ones(3, np.float32)}
    store = store_at(tmp_path / "states", 100_000, one)
    rows = rows_of(store)
    store.write(
        np.array([7, 99_999]), [np.ones((2, 2500), "f4"), np.ones((2, 3), "f4")]
    )
    files = list((tmp_path / "states").iterdir())
    assert sum(x.stat().st_size for x in files) > 10**9
    assert sum(x.stat().st_blocks * 512 for x in files) < 2**19
    assert rows["big"][[7, 8]].sum() == 2500 + 1250
    store.place.finish()


def test_a_folder_is_of_one_training(tmp_path):
    folder = tmp_path / "states"
    solution = train(folder, num_rounds=2)
    before = {x.name: x.read_bytes() for x in folder.iterdir()}

    def refuses(error, words, **kwargs):
        with pytest.raises(error, match=words) as raised:
            train(**{"where": folder, "num_rounds": 2} | kwargs)
        assert len(str(raised.value)) < 600
        assert {x.name: x.read_bytes() for x in folder.iterdir()} == before

    refuses(FileExistsError, "of a training that came to its end, which would be lost")
    with pytest.raises(ValueError, match="client states of another algorithm or model"):
        SCAFFOLD.init(testing.Point(0.0), num_clients=SIZE, client_states=folder)
    with pytest.raises(ValueError, match=f"states of {SIZE} clients, but there are 9"):
        SCAFFOLD.init(testing.Linear(), num_clients=9, client_states=folder)
    # The training itself may go on, and holds the folder as long as it does.
    steps = eqf.rounds(SCAFFOLD, solution.state, loader_of(), num_rounds=4, key=KEY)
    for state, _ in steps:  # noqa: B007
        with pytest.raises(BlockingIOError, match="another training keeps its client"):
            store_at(
                folder,
                one=SCAFFOLD.begin(
                    testing.Linear(), num_clients=SIZE, key=None
                ).clients,
            )
    assert_same(state, straight(4).state)
    index = folder / "client-states.json"
    index.write_text(json.dumps({"clients": SIZE}))
    before = {x.name: x.read_bytes() for x in folder.iterdir()}
    refuses(FileExistsError, "is not what a training left there: it is damaged")
    index.unlink()
    before = {x.name: x.read_bytes() for x in folder.iterdir()}
    refuses(FileExistsError, "needs a folder of its own, and")
    with pytest.raises(NotADirectoryError, match="is no folder. Move that away"):
        train(folder / "00000.rows" / "x", num_rounds=1)


@pytest.mark.parametrize(
    ("owner", "name", "why", "words"),
    [
        (pathlib.Path, "mkdir", errno.EACCES, "Permission denied"),
        (os, "open", errno.EROFS, "Read-only file system"),
    ],
    ids=("the folder", "what is in it"),
)
def test_a_folder_that_cannot_be_written_to(
    tmp_path, monkeypatch, owner, name, why, words
):
    folder, function = tmp_path / "states", getattr(owner, name)

    def refused(path, *args, **kwargs):
        if str(folder) in str(path):
            raise OSError(why, "no")
        return function(path, *args, **kwargs)

    monkeypatch.setattr(owner, name, refused)
    with pytest.raises(OSError, match="Could not write client states in") as e:
        train(folder)
    assert e.value.errno == why
    assert words in str(e.value)


def test_a_disk_that_gets_full_loses_nothing(tmp_path, monkeypatch):
    pwrite, left = os.pwrite, 13

    def full(*args):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "full")
        return pwrite(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(
            OSError, match="No space left on device. The state that"
        ) as e:
            train(tmp_path / "states")
    state = e.value.solution.state  # pyright: ignore
    reached = int(state.round)
    assert 0 < reached < 6
    assert_same(state, straight(reached).state)
    steps = eqf.rounds(SCAFFOLD, state, loader_of(), num_rounds=6, key=KEY)
    *_, (state, _) = steps
    assert_same(state, straight().state)
    assert place_of(eqf.Solution(None, state, eqf.RESULTS.successful, [])).startswith(
        "in"
    )


# Checkpoints.


@pytest.fixture
def hasty(monkeypatch):
    """The disk is not waited for: what is killed here is a function."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def restored(directory, where, num_clients=SIZE):
    store = store_at(where, num_clients)
    found = eqf.Checkpointer(directory).restore({"clients": rows_of(store)})
    assert found is not None
    return found[0], store


@pytest.mark.parametrize("where", ["host", "disk"])
@pytest.mark.usefixtures("hasty")
def test_a_journal_has_what_was_written(tmp_path, where):
    """Saved again and again it is the store, few segments, and short ones."""
    place = tmp_path / "states" if where == "disk" else where
    size, rng = 64, np.random.default_rng(0)
    store = store_at(place, size)
    saves = eqf.Checkpointer(tmp_path / "run", keep=2)
    written = total = links = 0
    for round in range(1, 31):
        numbers = rng.choice(size, 4, replace=False)
        store.write(numbers, some(4, round))
        saves.save(round, {"clients": rows_of(store)}, [])
        folder = tmp_path / "run" / f"{round:08d}" / "clients"
        index = json.loads((folder / "index.json").read_text())
        counts = [count for _, count in index["segments"]]
        assert len(counts) <= 6
        assert sum(counts) <= 2 * np.count_nonzero(store.written)
        written += counts[-1]
        total += len(numbers)
        oldest = folder / index["segments"][0][0] / "numbers"
        links = max(links, oldest.stat().st_nlink)
    assert written < 6 * total  # A few times in all.
    assert links == 2  # Both checkpoints have it.
    for other in ("host", tmp_path / "others"):
        found = restored(tmp_path / "run", other, size)
        assert found[0] == 30
        assert_same(rows_of(found[1]), rows_of(store))
        assert_same(found[1].written > 0, store.written > 0)
    # What was restored goes on where it was: of four rows four are written.
    _, new = found
    new.write(np.arange(1), some(1, 99))
    again = eqf.Checkpointer(tmp_path / "run")
    again.save(31, {"clients": rows_of(new)}, [])
    index = tmp_path / "run" / "00000031" / "clients" / "index.json"
    assert json.loads(index.read_text())["segments"][-1][1] <= 4
    assert_same(rows_of(restored(tmp_path / "run", "host", size)[1]), rows_of(new))
    store.write(np.arange(1), some(1, 98))


@pytest.mark.usefixtures("hasty")
def test_killed_at_every_step_of_a_save(tmp_path, monkeypatch):
    """The checkpoint before is whole, also what both share."""

    class Killed(BaseException):
        pass

    def run(directory, stop):
        count = 0

        def counted(function):
            def wrapper(*args, **kwargs):
                nonlocal count
                count += 1
                if count == stop:
                    raise Killed
                return function(*args, **kwargs)

            return wrapper

        store, at = store_at("host"), {}
        saves = eqf.Checkpointer(directory, keep=1)
        for round, numbers in ((1, [0, 1, 2, 3]), (2, [5])):
            store.write(np.array(numbers), some(len(numbers), round))
            at[round] = jax.tree.map(np.asarray, rows_of(store))
            if round == 1:
                saves.save(1, {"clients": rows_of(store)}, [])
        killed = False
        with monkeypatch.context() as patch:
            for owner, name in (
                *((pathlib.Path, x) for x in ("mkdir", "rename", "write_text")),
                *((pathlib.Path, x) for x in ("unlink", "rmdir", "write_bytes")),
                (os, "link"),
            ):
                patch.setattr(owner, name, counted(getattr(owner, name)))
            try:
                saves.save(2, {"clients": rows_of(store)}, [])
            except Killed:
                killed = True
        round, found = restored(directory, "host")
        assert_same(rows_of(found), at[round])
        # The program that goes on, and the one that has not noticed.
        for number, (who, by) in enumerate(((store, saves), (found, None))):
            who.write(np.array([6]), some(1, 7))
            by = eqf.Checkpointer(directory, keep=1) if by is None else by
            by.save(3 + number, {"clients": rows_of(who)}, [])
            assert_same(rows_of(restored(directory, "host")[1]), rows_of(who))
        return killed

    stop = 1
    while run(tmp_path / str(stop), stop):
        stop += 1
    assert stop > 10


def test_a_damaged_journal_is_passed_over(tmp_path):
    store, saves = store_at("host"), eqf.Checkpointer(tmp_path, keep=3)
    for round, numbers in ((1, [0, 1, 2, 3]), (2, [5])):
        store.write(np.array(numbers), some(len(numbers), round))
        saves.save(round, {"clients": rows_of(store)}, [])
        if round == 1:
            first = jax.tree.map(np.asarray, rows_of(store))
    newest = json.loads((tmp_path / "00000002/clients/index.json").read_text())
    part = tmp_path / "00000002" / "clients" / newest["segments"][-1][0] / "00000"
    os.truncate(part, part.stat().st_size - 1)
    with pytest.warns(UserWarning, match="bytes instead of"):
        round, found = restored(tmp_path, "host")
    assert round == 1
    assert_same(rows_of(found), first)
    # What is linked would be damaged in the next checkpoint too: it is written anew.
    os.truncate(tmp_path / "00000001/clients" / newest["segments"][0][0] / "00000", 3)
    saves.save(3, {"clients": rows_of(store)}, [])
    round, found = restored(tmp_path, "host")
    assert round == 3
    assert_same(rows_of(found), rows_of(store))
    with pytest.raises(
        ValueError, match=rf"is float32\[{SIZE},3\], not float32\[9,3\]"
    ):
        restored(tmp_path, "host", 9)


@pytest.mark.parametrize(
    ("saved", "wanted"),
    [("device", "host"), ("host", "device"), ("host", "disk"), ("sharded", "disk")],
)
def test_a_checkpoint_goes_on_in_any_place(tmp_path, saved, wanted):
    def run(where, num_rounds):
        mesh = MESH if "sharded" in (saved, wanted) else None
        place = tmp_path / "states" if where == "disk" else where
        saves = eqf.Checkpointer(tmp_path / "run", every=2)
        return train(place, mesh, num_rounds=num_rounds, checkpointer=saves)

    run(saved, 4)
    got = run(wanted, 6)
    expected = straight(mesh=MESH if saved == "sharded" else None)
    assert_same(got.state, expected.state)
    assert got.history == expected.history


@pytest.mark.parametrize("where", ["host", "disk"])
@pytest.mark.usefixtures("hasty")
def test_a_disk_that_gets_full_in_a_segment(tmp_path, monkeypatch, where):
    """The checkpoint before is whole, and the training goes on from there."""
    run = tmp_path / "run"

    def place():
        return where if where == "host" else tmp_path / "states"

    class Full(io.FileIO):
        def write(self, data):
            io.FileIO.write(self, bytes(data)[:5])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opened(path, mode):
        # Of the second checkpoint, and not those that are read.
        full = "w" in mode and (run / "00000002").exists()
        return Full(path, "w") if full else open(path, mode)

    with monkeypatch.context() as patch:
        journal = "equifed._checkpoint.journal.open"
        patch.setattr(journal, opened, raising=False)
        with pytest.raises(OSError, match="^Could not save round 4 in .*No space") as e:
            train(place(), checkpointer=eqf.Checkpointer(run, every=2))
    assert e.value.errno == errno.ENOSPC
    assert "The checkpoints that lie there are intact" in str(e.value)
    assert sorted(x.name for x in run.glob("0*")) == ["00000002"]
    kept = train("host", num_rounds=2, checkpointer=eqf.Checkpointer(run))
    assert_same(kept.state, straight(2).state)
    # The store's own rows are of a later round by then.
    got = train(place(), checkpointer=eqf.Checkpointer(run, every=2))
    assert_same(got.state, straight().state)
    assert got.history == straight().history


_KILLED = """
import os, pathlib, signal, sys
import jax

jax.config.update("jax_num_cpu_devices", 4)
import equifed as eqf
from tests.test_store import train

class Kills(eqf.AbstractLogger):
    def start(self, num_rounds, number=0): pass
    def close(self): pass
    def log(self, round, metrics):
        if round == 5:
            os.kill(os.getpid(), signal.SIGKILL)

at = pathlib.Path(sys.argv[1])
saves = eqf.Checkpointer(at / "run", every=2)
train(at / "states", checkpointer=saves, logger=Kills())
"""


def test_killed_while_the_store_is_ahead_of_its_checkpoint(tmp_path):
    script = [sys.executable, "-c", textwrap.dedent(_KILLED), str(tmp_path)]
    ended = subprocess.run(script, cwd=pathlib.Path(__file__).parents[1], check=False)
    assert ended.returncode == -signal.SIGKILL
    saves = eqf.Checkpointer(tmp_path / "run", every=2)
    got = train(tmp_path / "states", checkpointer=saves)
    assert_same(got.state, straight().state)
    assert got.history == straight().history
    # Run once more, there is nothing to do; the folder is restored all the same.
    got = train(tmp_path / "states", checkpointer=saves)
    assert_same(got.state, straight().state)


def test_a_killed_training_without_a_checkpoint_begins_anew(tmp_path):
    store: Any = store_at(tmp_path / "states")
    store.write(np.arange(3), some(3))
    store.place._open.lock.close()  # The operating system's part of a kill.
    new = store_at(tmp_path / "states")
    assert_same(rows_of(new)["a"], np.repeat(ONE["a"][None], SIZE, 0))
    assert isinstance(new.place, DiskPlace)
    assert isinstance(new, Store)


# Empty, short by a lot or a byte, and too long; of either file, which are read alike.
@pytest.mark.parametrize(("leaf", "left"), [(0, 0), (1, 5), (0, -1), (1, 99)])
def test_a_file_that_somebody_changes_is_one_clear_error(tmp_path, leaf, left):
    """Neither the end of the program, nor zeros."""
    folder = tmp_path / "states"
    saves = eqf.Checkpointer(tmp_path / "run", every=2)
    state = train(folder, num_rounds=4, checkpointer=saves).state
    assert {x.name for x in folder.iterdir()} == {
        *("client-states.json", "lock", "00000.rows", "00001.rows")
    }
    file = folder / f"{leaf:05d}.rows"
    size = file.stat().st_size
    damaged = size + left if left < 0 else left
    os.truncate(file, damaged)
    words = rf"`.*{file.name}` is damaged: it has {damaged} bytes instead of {size}, "
    store = store_of(state.clients)
    assert store is not None
    number = np.flatnonzero(store.written)[-1:]
    for action in (
        lambda: np.asarray(jax.tree.leaves(state.clients)[leaf]),
        lambda: store.write(number, [x[None] for x in store.initial]),
        lambda: next(eqf.rounds(SCAFFOLD, state, loader_of(), num_rounds=6, key=KEY)),
    ):
        with pytest.raises(OSError, match=words) as raised:
            action()
        assert len(str(raised.value)) < 600
    assert file.stat().st_size == damaged
    # As it says.
    got = train(tmp_path / "another", num_rounds=6, checkpointer=saves)
    assert_same(got.state, straight().state)


def test_files_that_a_killed_training_left_truncated_are_of_no_use(tmp_path):
    folder = tmp_path / "states"
    saves = eqf.Checkpointer(tmp_path / "run", every=2)
    solution = train(folder, num_rounds=4, checkpointer=saves)
    del solution  # What is no longer there writes nothing.
    (rows,) = folder.glob("00000.rows")
    os.truncate(rows, rows.stat().st_size // 2)
    index = folder / "client-states.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"finished": False}))
    got = train(folder, num_rounds=6, checkpointer=saves)
    assert_same(got.state, straight().state)
