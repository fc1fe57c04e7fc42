"""Models with a state: statistics of short batches, and what becomes of them in rounds.

FedAvg with batch normalisation is checked against rounds in NumPy, whose batches hold
nothing but the examples that count.
"""

import dataclasses
import functools
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing
from equifed._client.gradient import BatchLoss
from equifed._round import State
from equifed._tree import split_params

from .algorithms import ALGORITHMS


class Net(eqx.Module):
    dense: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    out: eqx.nn.Linear

    def __init__(self, key, mode="batch"):
        one, two = jr.split(key)
        self.dense = eqx.nn.Linear(3, 4, use_bias=False, key=one)
        self.norm = eqx.nn.BatchNorm(4, "batch", mode=mode, momentum=0.9)  # pyright: ignore[reportArgumentType]
        self.out = eqx.nn.Linear(4, "scalar", use_bias=False, key=two)

    def __call__(self, x, state):
        x, state = self.norm(self.dense(x), state)
        return self.out(x), state


class Deep(eqx.Module):
    """Every kind: in a program of its own, in one that is computed again, spectral."""

    net: Net
    norm: eqx.nn.BatchNorm
    spectral: eqx.nn.SpectralNorm
    first: eqx.nn.Linear

    def __init__(self, key):
        self.net, self.first = Net(key), eqx.nn.Linear(3, 3, key=key)
        self.norm = eqx.nn.BatchNorm(3, "batch", mode="ema")
        layer = eqx.nn.Linear(3, 3, key=key)
        self.spectral = eqx.nn.SpectralNorm(layer, "weight", key=key)

    def __call__(self, x, state):
        x, state = self.spectral(self.first(x), state)
        x, state = jax.checkpoint(lambda x, s: self.norm(x, s))(x, state)
        return jax.jit(lambda x, s: self.net(jax.nn.tanh(x), s))(x, state)


def loss(model, state, example, key):
    del key
    out, state = model(example["x"], state)
    return 0.5 * (out - example["y"]) ** 2, state


SIZES = (5, 3, 0, 8)
RNG = np.random.default_rng(0)
X = RNG.normal(2, 3, (7, 3)).astype(np.float32)
Y = RNG.normal(size=7).astype(np.float32)
DATA = testing.ragged_clients(SIZES)
BATCHING = eqf.data.Epochs(2, batch_size=4)  # of 5, 3 and 8: batches of 1 and 3 too
STATEFUL, SGD, KEY = eqf.Stateful(loss), optax.sgd(0.05), jr.key(0)
PAIR = eqx.nn.make_with_state(Net)(KEY)
OWN_STATISTICS = eqf.roles(PAIR, personal=eqf.statistics)
OWN_NORMS = eqf.roles(PAIR, personal=eqf.norms)
LOADER = eqf.data.Loader(DATA, eqf.data.AllClients(), BATCHING)
FEDAVG = eqf.FedAvg(STATEFUL, SGD, BATCHING)


def run(
    algorithm: Any = FEDAVG,
    roles=None,
    executor=None,
    mesh=None,
    num_rounds=2,
    pair=PAIR,
) -> Any:
    batching = algorithm.batching
    loader = eqf.data.Loader(DATA, eqf.data.AllClients(), batching, mesh=mesh)
    state = algorithm.init(pair, num_clients=4, roles=roles, key=KEY)
    executor = eqf.Executor() if executor is None else executor
    for i in range(num_rounds):
        state, metrics = algorithm.round(state, loader(i), key=KEY, executor=executor)
    return state, metrics  # pyright: ignore[reportPossiblyUnboundVariable]


def assert_close(x, y, rtol=1e-5, atol=1e-6):
    assert jtu.tree_structure(x) == jtu.tree_structure(y)
    for a, b in zip(jtu.tree_leaves(x), jtu.tree_leaves(y), strict=True):
        if eqx.is_array(a):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def in_numpy(own=(), num_rounds=2, rate=0.05, momentum=0.9, weights=SIZES, turns=False):
    """FedAvg of `Net` in NumPy, with what is named kept by each client: the shared
    numbers, and each client's. If they take `turns`, the first half of a client's steps
    trains what is its own, and the rest what is shared."""
    net = PAIR[0]
    shared = {
        "dense": np.asarray(net.dense.weight, float),
        "weight": np.ones(4),
        "bias": np.zeros(4),
        "out": np.asarray(net.out.weight, float)[0],
        "count": 0.0,
        "mean": np.zeros(4),
        "var": np.ones(4),  # as Equinox begins
    }
    clients = [dict(shared) for _ in SIZES]
    for r in range(num_rounds):
        cohort = LOADER(r)
        ends = {}
        for slot, i in enumerate(np.asarray(cohort.index)[0]):
            if i >= len(SIZES):
                continue
            p = {n: (clients[i] if n in own else shared)[n] for n in shared}
            steps = slice(int(cohort.start[0, slot]), int(cohort.stop[0, slot]))
            planned = np.asarray(cohort.order)[0, steps]
            for k, rows in enumerate(planned):
                rows = rows[rows >= 0]
                x, y = (np.asarray(cohort.examples[n])[0, rows] for n in "xy")
                first = k < len(planned) // 2
                still = [n for n in shared if turns and (n in own) != first]
                _step(p, x.astype(float), y, rate, momentum, still)
            clients[i] = p
            if SIZES[i]:
                ends[i] = p
        total = sum(weights[i] for i in ends)
        shared = {
            name: sum(weights[i] * end[name] for i, end in ends.items()) / total
            for name in shared
        }
        shared["count"] = np.round(shared["count"])
    return shared, clients


def _step(p, x, y, rate, momentum, still):
    n = len(x)
    z = x @ p["dense"].T
    mean, var = z.mean(0), z.var(0)
    scale = 1 / np.sqrt(var + 1e-5)
    hat = (z - mean) * scale
    h = hat * p["weight"] + p["bias"]
    dy = (h @ p["out"] - y) / n
    dh = dy[:, None] * p["out"]
    dhat = dh * p["weight"]
    dz = scale * (dhat - dhat.mean(0) - hat * (dhat * hat).mean(0))
    grads = {"dense": dz.T @ x, "weight": (dh * hat).sum(0), "bias": dh.sum(0)}
    grads["out"] = dy @ h
    for name, grad in grads.items():
        p[name] = p[name] - (name not in still) * rate * grad
    p["count"] = p["count"] + 1
    for name, now in (("mean", mean), ("var", var)):
        p[name] = momentum * p[name] + (1 - momentum) * now


def numbers(pair):
    net, state = pair
    count = state.get(net.norm.batch_counter)
    mean, var = state.get(net.norm.batch_state_index)
    found = {"dense": net.dense.weight, "weight": net.norm.weight}
    found |= {"bias": net.norm.bias, "out": net.out.weight[0], "count": count}
    return found | {"mean": mean, "var": var}


def own(algorithm, state, i):
    return algorithm.own_model(state, jtu.tree_map(lambda x: x[i], state.clients))


def test_fedavg_with_batch_normalisation_is_that_of_numpy():
    state, metrics = run()
    wanted, _ = in_numpy()
    for name, x in numbers(state.model).items():
        np.testing.assert_allclose(x, wanted[name], rtol=2e-4, atol=2e-5, err_msg=name)
    # Of 4, 2 and 4 steps in each round.
    assert int(numbers(state.model)["count"]) == int(wanted["count"]) == 8
    assert metrics["clients"] == 3


@pytest.mark.parametrize(
    ("roles", "names"),
    [
        (OWN_STATISTICS, ("count", "mean", "var")),
        (OWN_NORMS, ("weight", "bias", "count", "mean", "var")),
    ],
    ids=("SiloBN", "FedBN"),
)
def test_what_is_personal_of_it_stays_with_its_client(roles, names):
    state, _ = run(roles=roles)
    shared, clients = in_numpy(names)
    for i in range(4):
        for name, x in numbers(own(FEDAVG, state, i)).items():
            wanted = clients[i][name] if name in names else shared[name]
            np.testing.assert_allclose(x, wanted, rtol=2e-4, atol=2e-5, err_msg=name)
    counts = [int(numbers(own(FEDAVG, state, i))["count"]) for i in range(4)]
    assert counts == [8, 4, 0, 8]
    # Nothing of it is sent, and the server's is as it was.
    assert state.statistics is None
    before = FEDAVG.init(PAIR, num_clients=4).model
    assert_close(state.model[1], before[1], rtol=0, atol=0)


def test_fedbn_keeps_the_normalisation_and_counts_clients_alike():
    fedbn = eqf.FedBN(STATEFUL, SGD, BATCHING)
    state, _ = run(fedbn, OWN_NORMS)
    names = ("weight", "bias", "count", "mean", "var")
    shared, clients = in_numpy(names, weights=(1, 1, 0, 1))
    for i in range(4):
        for name, x in numbers(own(fedbn, state, i)).items():
            wanted = clients[i][name] if name in names else shared[name]
            np.testing.assert_allclose(x, wanted, rtol=2e-4, atol=2e-5, err_msg=name)
    assert state.statistics is None
    # By their sizes it would be another model.
    by_size = in_numpy(names)[0]["dense"]
    assert np.abs(by_size - state.params[0].dense.weight).max() > 1e-3


@pytest.mark.parametrize("own_statistics", (False, True), ids=("averaged", "personal"))
def test_of_alternating_phases_both_move_the_statistics(own_statistics):
    """In the order of their batches, whichever leaves these train."""
    algorithm = eqf.FedAlt(STATEFUL, SGD, BATCHING)
    names = ("out", "count", "mean", "var") if own_statistics else ("out",)
    roles = eqf.roles(PAIR, personal=lambda pair: pair[0].out)
    if own_statistics:
        paths = {*roles.of("personal"), *OWN_STATISTICS.of("personal")}
        roles = eqf.roles(
            PAIR, by=lambda path, _: "personal" if path in paths else "shared"
        )
    state, _ = run(algorithm, roles)
    shared, clients = in_numpy(names, turns=True)
    for i in range(4):
        for name, x in numbers(own(algorithm, state, i)).items():
            wanted = clients[i][name] if name in names else shared[name]
            np.testing.assert_allclose(x, wanted, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("roles", (None, OWN_NORMS), ids=("shared", "FedBN"))
def test_who_trains_alone_keeps_all_of_it(roles):
    algorithm = eqf.LocalOnly(STATEFUL, SGD, BATCHING)
    state, metrics = run(algorithm, roles)
    names = ("dense", "weight", "bias", "out", "count", "mean", "var")
    _, clients = in_numpy(names)
    for i in range(4):
        for name, x in numbers(own(algorithm, state, i)).items():
            wanted = clients[i][name]
            np.testing.assert_allclose(x, wanted, rtol=2e-4, atol=2e-5, err_msg=name)
    assert int(metrics["bits_up"]) == int(metrics["bits_down"]) == 0


def test_frozen_statistics_stay_as_they_are():
    state, _ = run(roles=eqf.roles(PAIR, frozen=eqf.statistics))
    assert state.statistics is None
    assert_close(state.model[1], PAIR[1], rtol=0, atol=0)
    assert (state.model[0].norm.weight != 1).all()


DEEP = eqx.nn.make_with_state(Deep)(KEY)
DEEP_PARAMS, DEEP_REST = split_params(DEEP)


@jax.jit
def of_batch(params, examples, mask):
    batch = BatchLoss(STATEFUL, DEEP_REST, examples, mask, KEY)
    return batch.gradient_and_state(params)


@jax.jit
@functools.partial(jax.grad, has_aux=True)
def of_rows(params, x, y):
    """The same by `vmap` alone, of rows that all count."""
    model, state = eqx.combine(params, DEEP_REST)
    values, state = jax.vmap(
        lambda x, y: loss(model, state, {"x": x, "y": y}, None),
        axis_name="batch",
        out_axes=(0, None),
    )(x, y)
    return values.mean(), state


@pytest.mark.parametrize("rows", ([], [2], [0, 3, 5], [0, 1, 2, 4, 6]))
def test_only_examples_that_count_enter_statistics(rows):
    mask = jnp.isin(jnp.arange(7), jnp.asarray(rows, int))
    # What stands in an empty place is looked at as little as what it is.
    x = jnp.where(mask[:, None], X, 1e3)
    examples = {"x": x, "y": jnp.asarray(Y)}

    grads, metrics, new = of_batch(DEEP_PARAMS, examples, mask)
    assert int(metrics["loss"].weight) == len(rows)
    if rows:
        wanted = of_rows(DEEP_PARAMS, X[rows], Y[rows])
        assert_close((grads, new), wanted, atol=1e-5)
    else:
        assert_close(new, DEEP[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("executor", "roles"),
    [
        (eqf.Executor(block_size=4), None),
        ("mesh", None),
        ("mesh", OWN_NORMS),
        (eqf.Executor(ordered=True), OWN_NORMS),
        (eqf.Executor(debug=True), OWN_NORMS),
    ],
    ids=("blocks", "mesh", "mesh-FedBN", "ordered-FedBN", "debug-FedBN"),
)
def test_however_a_round_is_run(executor, roles):
    mesh, pair = None, PAIR
    if executor == "mesh":
        # With layers that set their states to constants, too.
        pair = DEEP if roles is None else PAIR
        kinds = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((2,), ("clients",), axis_types=kinds)
        executor = eqf.Executor(block_size=2)
    algorithm = FEDAVG
    if executor.debug:  # which takes its time
        batching = eqf.data.Steps(1, batch_size=4)
        algorithm = eqf.FedAvg(STATEFUL, SGD, batching)
    how = {"executor": executor, "mesh": mesh}
    state, _ = run(algorithm, roles, num_rounds=1, pair=pair, **how)
    assert_close(state, run(algorithm, roles, num_rounds=1, pair=pair)[0])


def falling(t):
    return 0.05 / (1 + t.astype(np.float32))


SIGN = eqf.compress.Sign()
# What they do to params, they do not do to statistics.
ALIKE = {
    "FedAdam": eqf.FedAdam(STATEFUL, SGD, BATCHING, server_learning_rate=0.1),
    "Clip": eqf.FedAvg(
        STATEFUL, SGD, BATCHING, aggregator=eqf.Clip(eqf.WeightedMean(), max_norm=1e-3)
    ),
    "CompressedClient": eqf.Algorithm(
        eqf.compress.CompressedClient(eqf.LocalSGD(STATEFUL, SGD, BATCHING), SIGN),
        eqf.WeightedMean(),
        eqf.OptaxServer(optax.sgd(1.0)),
    ),
    "FedNova": eqf.FedNova(STATEFUL, SGD, BATCHING),
    "QFedAvg": eqf.QFedAvg(
        STATEFUL, 0.05, BATCHING, q=1, aggregator=eqf.WeightedMean()
    ),
    "Diagnose": eqf.Diagnose(eqf.FedAvg(STATEFUL, SGD, BATCHING)),
    "OverRounds": eqf.OverRounds(
        lambda t: eqf.FedAvg(
            STATEFUL, optax.sgd(0.05 / (1 + t.astype(np.float32))), BATCHING
        )
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_the_server_averages_statistics_whatever_it_does_to_params(name):
    plain, _ = run(num_rounds=1)
    state, metrics = run(ALIKE[name], num_rounds=1)
    assert_close(state.statistics, plain.statistics)
    moved = np.abs(state.params[0].dense.weight - plain.params[0].dense.weight)
    assert (moved.max() > 1e-3) == (name not in ("OverRounds", "Diagnose"))


def test_a_median_counts_the_clients_statistics_alike():
    median = eqf.FedAvg(STATEFUL, SGD, BATCHING, aggregator=eqf.Median())
    found, alike = run(median, num_rounds=1)[0], (1, 1, 0, 1)
    wanted, _ = in_numpy(num_rounds=1, weights=alike)
    for name in ("mean", "var"):
        x = numbers(found.model)[name]
        np.testing.assert_allclose(x, wanted[name], rtol=1e-4, err_msg=name)


def test_statistics_are_counted_as_sent():
    averaged, own = (run(roles=r, num_rounds=1)[1] for r in (None, OWN_STATISTICS))
    bits = 32 * (
        4 + 4 + 1
    )  # to all four clients, and from the three that have examples
    assert int(averaged["bits_down"]) - int(own["bits_down"]) == 4 * bits
    assert int(averaged["bits_up"]) - int(own["bits_up"]) == 3 * bits


def test_a_round_of_nobody_changes_nothing():
    state = FEDAVG.init(PAIR, num_clients=4, roles=OWN_NORMS)
    shared = FEDAVG.init(PAIR, num_clients=4)
    cohort = LOADER(0)
    nobody = dataclasses.replace(cohort, index=jnp.full_like(cohort.index, 2**31 - 1))
    silent = dataclasses.replace(cohort, stop=cohort.start)
    for before, some in ((state, nobody), (shared, nobody), (shared, silent)):
        after, _ = FEDAVG.round(before, some, key=KEY)
        after = dataclasses.replace(after, round=before.round)
        assert_close(after, before, rtol=0, atol=0)


def test_a_client_that_diverges_leaves_the_statistics_alone():
    bad = {"x": np.full((4, 3), np.inf, np.float32), "y": np.zeros(4, np.float32)}
    good = {name: np.asarray(column) for name, column in DATA.client(3).items()}
    batching = eqf.data.Epochs(1, batch_size=4)
    robust = eqf.DropNonfinite(eqf.WeightedMean())
    algorithm = eqf.FedAvg(STATEFUL, SGD, batching, aggregator=robust)
    states = []
    for clients in ({"a": good, "b": bad}, {"a": good, "b": good}):
        data = eqf.data.FederatedDataset.from_mapping(clients)
        cohort = eqf.data.cohort(data, batching)
        if clients["b"] is good:
            cohort = dataclasses.replace(
                cohort, index=jnp.where(cohort.index == 1, 2**31 - 1, cohort.index)
            )
        state = algorithm.init(PAIR, num_clients=2)
        state, metrics = algorithm.round(state, cohort, key=KEY)
        states.append(state)
    assert_close(*(s.statistics for s in states))


def test_training_goes_on_where_it_was_saved(tmp_path):
    def train(num_rounds, folder=None, rounds_per_call=1):
        return eqf.train(
            *(FEDAVG, PAIR, LOADER),
            num_rounds=num_rounds,
            key=KEY,
            checkpointer=folder and eqf.Checkpointer(folder, every=1),
            rounds_per_call=rounds_per_call,
            evaluation={"all": DATA},
            eval_every=3,
        )

    with jax.numpy_dtype_promotion("standard"):
        whole = train(3, rounds_per_call=3)
        train(2, tmp_path)
        resumed = train(3, tmp_path)
        found = eqf.evaluate(whole.model, DATA, STATEFUL)
    assert_close(resumed.state, whole.state, rtol=0, atol=0)
    assert numbers(whole.model)["mean"].any()
    assert whole.history[-1]["all/loss"] == found["loss"]


@pytest.mark.parametrize("where", ("host", "folder"))
def test_personal_statistics_go_on_where_they_were_saved(tmp_path, where):
    """A new process has no files of its own: the checkpoint's rows are what counts."""
    fedbn = eqf.FedBN(STATEFUL, SGD, BATCHING)

    def train(num_rounds, name=None, checkpointer=None):
        place = tmp_path / name if where == "folder" and name else where
        return eqf.train(
            *(fedbn, PAIR, LOADER),
            num_rounds=num_rounds,
            key=KEY,
            roles=OWN_NORMS,
            client_states=place if name else "device",
            checkpointer=checkpointer,
            evaluation={"own": eqf.Personal(DATA)},
            eval_every=3,
        )

    with jax.numpy_dtype_promotion("standard"):
        whole = train(3)
        train(2, "first", eqf.Checkpointer(tmp_path / "run", every=1))
        resumed = train(3, "second", eqf.Checkpointer(tmp_path / "run", every=1))
    states = [jtu.tree_leaves(s.state.clients) for s in (whole, resumed)]
    counts = [0, 0, 0, 0]
    for x, y in zip(*states, strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.tobytes()) == (y.dtype, y.tobytes())
        counts = x if np.issubdtype(x.dtype, np.integer) else counts
    assert list(counts) == [12, 6, 0, 12]  # steps, of both parts
    assert_close(resumed.state.params, whole.state.params, rtol=0, atol=0)
    assert whole.history[-1] == resumed.history[-1]
    assert "own/loss" in whole.history[-1]


class Spectral(eqx.Module):
    norm: eqx.nn.SpectralNorm

    def __init__(self, key):
        layer = eqx.nn.Linear(3, 3, use_bias=False, key=key)
        self.norm = eqx.nn.SpectralNorm(layer, "weight", key=key)

    def __call__(self, x, state):
        y, state = self.norm(x, state)
        return jnp.sum(y), state


@pytest.mark.parametrize("personal", (False, True), ids=("averaged", "personal"))
def test_a_spectral_norm_iterates_in_each_client(personal):
    pair = eqx.nn.make_with_state(Spectral)(KEY)
    weight = np.asarray(pair[0].norm.layer.weight, float)
    roles = eqf.roles(pair, personal=eqf.statistics) if personal else None
    still = eqf.FedAvg(STATEFUL, optax.sgd(0.0), BATCHING)
    state, _ = run(still, roles, num_rounds=1, pair=pair)

    def ended(steps):
        """The two vectors after so many steps of the power iteration."""
        u, v = (np.asarray(x, float) for x in pair[1].get(pair[0].norm.uv_index))
        for _ in range(steps):
            u = weight @ v / np.linalg.norm(weight @ v)
            v = weight.T @ u / np.linalg.norm(weight.T @ u)
        return u, v

    ends = [ended(steps) for steps in (4, 2, 0, 4)]
    if not personal:
        mean = [np.average(x, axis=0, weights=SIZES) for x in zip(*ends, strict=True)]
        models, ends = [state.model], [mean]
    else:
        models = [own(still, state, i) for i in range(4)]
    for (net, states), wanted in zip(models, ends, strict=True):
        for x, y in zip(states.get(net.norm.uv_index), wanted, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("personal", (False, True), ids=("averaged", "personal"))
def test_a_spectral_norm_is_evaluated_with_the_vectors_that_it_has(personal):
    """The weight over its norm along both, which stay as they are."""

    def squared(model, state, example, key):
        y, state = model(example["x"], state)
        return (y - example["y"]) ** 2, state

    given = eqx.nn.make_with_state(Spectral)(KEY)
    algorithm = eqf.FedAvg(eqf.Stateful(squared), SGD, BATCHING)
    roles = eqf.roles(given, personal=eqf.statistics) if personal else None
    state, _ = run(algorithm, roles, num_rounds=1, pair=given)
    before = [np.array(x) for x in jtu.tree_leaves((state.statistics, state.clients))]

    def by_hand(pair, i):
        net, states = pair
        weight = np.asarray(net.norm.layer.weight, float)
        u, v = (np.asarray(x, float) for x in states.get(net.norm.uv_index))
        rows = {name: np.asarray(x, float) for name, x in DATA.client(i).items()}
        out = (rows["x"] @ (weight / (u @ weight @ v)).T).sum(1)
        return np.mean((out - rows["y"]) ** 2)

    parts = (DATA, algorithm.loss)
    with jax.numpy_dtype_promotion("standard"):
        found = eqf.evaluate_personal(algorithm, state, *parts, clients=DATA)
    wanted = [by_hand(own(algorithm, state, i), i) for i in (0, 1, 3)]
    np.testing.assert_allclose(found.values["loss"][[0, 1, 3]], wanted, rtol=1e-4)
    if not personal:
        with jax.numpy_dtype_promotion("standard"):
            one = eqf.evaluate(state.model, *parts)["loss"]
        mean = np.average(wanted, weights=[5, 3, 8])
        np.testing.assert_allclose(one, mean, rtol=1e-4)
    after = jtu.tree_leaves((state.statistics, state.clients))
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("statistics", "personal"), ((jnp.float32, True), (jnp.bfloat16, False)), ids=str
)
def test_in_half_the_precision(statistics, personal):
    """All keeps its dtype, and comes near to what it is in full precision."""

    def half_loss(model, state, example, key):
        half = {name: x.astype(jnp.bfloat16) for name, x in example.items()}
        return loss(model, state, half, key)

    def cast(x, dtype):
        return jtu.tree_map(
            lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, x
        )

    half = cast(PAIR[0], jnp.bfloat16), cast(PAIR[1], statistics)
    algorithm = eqf.FedAvg(eqf.Stateful(half_loss), SGD, BATCHING)
    roles = eqf.roles(half, personal=eqf.norms) if personal else None
    with jax.numpy_dtype_promotion("standard"):  # Equinox's own sums
        state, _ = run(algorithm, roles, pair=half)
    wanted, _ = run(roles=OWN_NORMS if personal else None)
    first = algorithm.init(half, num_clients=4, roles=roles)
    states = (state, wanted, first)
    each = [jtu.tree_leaves((s.params, s.statistics, s.clients)) for s in states]
    for x, y, before in zip(*each, strict=True):
        assert x.dtype == before.dtype
        x, y = (np.asarray(a, np.float32) for a in (x, y))
        np.testing.assert_allclose(x, y, rtol=0.05, atol=0.05)


def test_evaluation_takes_the_statistics_as_they_are():
    net, state = run()[0].model
    still = eqx.nn.inference_mode(net)
    rows = [DATA.client(i) for i in (0, 1, 3)]
    x, y = (np.concatenate([np.asarray(r[n]) for r in rows]) for n in "xy")
    # Equinox takes a power of a number of batches.
    with jax.numpy_dtype_promotion("standard"):
        found = eqf.evaluate((net, state), DATA, STATEFUL)
        out = jax.vmap(lambda x: still(x, state)[0])(x)
    np.testing.assert_allclose(found["loss"], np.mean(0.5 * (out - y) ** 2), rtol=1e-5)


def test_each_client_is_evaluated_with_its_own_statistics():
    state, _ = run(roles=OWN_NORMS)
    tune = eqf.FineTune(STATEFUL, SGD, BATCHING)
    models = [own(FEDAVG, state, i) for i in range(4)]
    given = (FEDAVG, state, DATA, STATEFUL)
    with jax.numpy_dtype_promotion("standard"):
        found = eqf.evaluate_personal(*given, clients=DATA).values["loss"]
        wanted = eqf.evaluate_own(models, DATA, STATEFUL).values["loss"]
        tuned = eqf.evaluate_personal(*given, clients=DATA, fine_tune=tune)
        tuned = tuned.values["loss"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert (tuned != found)[[0, 1, 3]].all()


# Others may forget it, and then say so.
CARRY = {
    *("FedAvg", "FedAvg-adam", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi"),
    *("FedProx", "Scaffold-1", "Scaffold-2", "FedNova", "FedDyn", "FedSAM", "FedExP"),
    *("FedCM", "MoFedSAM", "FedVARP", "MIFA", "FedSpeed", "FedDC", "FedLESAM"),
    *("FedSMOO", "FedPer", "LGFedAvg", "FedBN", "FedBABU", "QFedAvg", "OverRounds"),
    *("Median", "wrappers", "robust", "Compress", "EF21", "FedRep", "FedAlt"),
    "LocalOnly",
}


class Counted(eqx.Module):
    """A line that keeps an integer and a real number: traced in less time."""

    line: testing.Linear
    seen: eqx.nn.StateIndex

    def __init__(self):
        self.line = testing.Linear()
        self.seen = eqx.nn.StateIndex((jnp.zeros((), jnp.int32), jnp.zeros(())))

    def __call__(self, x, state):
        count, number = state.get(self.seen)
        return self.line(x), state.set(self.seen, (count + 1, number + 1))


def _statistics(x):
    return x.statistics if isinstance(x, State) else x.personal[1]


def test_every_algorithm_carries_the_state_or_says_that_it_does_not():
    cohort, pair = eqf.data.cohort(DATA, BATCHING), eqx.nn.make_with_state(Counted)()
    carry, refused = set(), {}
    for name, make in ALGORITHMS.items():
        algorithm = make(STATEFUL, BATCHING)
        needs: Any = {role: lambda pair: pair[0].line.bias for role in algorithm.needs}
        roles = eqf.roles(pair, **needs)

        def one_round(algorithm, cohort, roles=roles, name=name):
            state = algorithm.init(pair, num_clients=4, key=KEY, roles=roles)
            if name not in CARRY:  # Its rounds may need more than this cohort.
                return state, state
            return state, algorithm.round(state, cohort, key=KEY)[0]

        try:
            before, after = eqx.filter_eval_shape(one_round, algorithm, cohort)
        except ValueError as error:
            refused[name] = str(error)
        else:
            carry.add(name)
            # Of a method without a server they are among what the clients keep.
            kept = after.clients if algorithm.keeps_statistics else after
            assert jtu.tree_leaves(_statistics(kept)), name
            assert eqx.tree_equal(before, after), name
    assert carry >= CARRY
    words = r"`\w+` does not carry the state of a `Stateful` loss"
    assert all(re.match(words, said) for said in refused.values())


class Forgets(eqf.LocalSGD):
    """Says nothing of the statistics that it was sent."""

    def round(self, broadcast, data, state, *, key):
        out = eqf.LocalSGD.round(self, broadcast, data, state, key=key)
        return dataclasses.replace(out[0], statistics=None), *out[1:]


@pytest.mark.parametrize("roles", (None, OWN_STATISTICS), ids=("averaged", "personal"))
def test_a_client_that_forgets_its_state_is_refused(roles):
    plain = FEDAVG.client
    client = Forgets(
        loss=plain.loss,
        optim=plain.optim,
        batching=plain.batching,
        correction=plain.correction,
        criterion=plain.criterion,
    )
    algorithm: Any = eqx.tree_at(lambda a: a.client, FEDAVG, client)
    with pytest.raises(TypeError, match="`Forgets` does not carry the model's"):
        run(algorithm, roles, num_rounds=1)
