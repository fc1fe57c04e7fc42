"""The clients' own models, evaluated: against evaluating each by itself."""

import functools
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
from equifed._evaluate import personal

from .shared import compilations


SIZES = (5, 3, 0, 8, 6)
BATCHING = eqf.data.Epochs(2, batch_size=2)
SGD, KEY = optax.sgd(0.1), jr.key(0)
TRAIN = testing.ragged_clients(SIZES)
MODEL = testing.Linear()
PERSONAL = eqf.roles(MODEL, personal=lambda m: m.bias)
LOADER = eqf.data.Loader(TRAIN, eqf.data.UniformSampler(3), BATCHING)


def loss(model, example, key):
    return 0.5 * (example["x"] @ model.weight + model.bias - example["y"]) ** 2


def of(ids, seed=7):
    """Other examples of some of the clients, in an order of their own."""
    made = testing.ragged_clients(tuple(range(3, 3 + len(ids))), seed=seed)
    return eqf.data.FederatedDataset(made.columns, made.offsets, list(ids))


NAMES = TRAIN.client_ids
TEST = of([NAMES[3], NAMES[0], NAMES[2], NAMES[4]])


@functools.cache
def trained(name) -> Any:
    make, roles = {
        "FedPer": (eqf.FedPer, PERSONAL),
        "LocalOnly": (eqf.LocalOnly, None),
        "FedAvg": (eqf.FedAvg, None),
        "Ditto": (functools.partial(eqf.Ditto, lam=0.1), None),
    }[name]
    algorithm = make(loss, SGD, BATCHING)
    state = algorithm.init(MODEL, num_clients=len(TRAIN), roles=roles)
    for i in range(3):
        state, _ = algorithm.round(state, LOADER(i), key=KEY)
    return algorithm, state


def by_hand(algorithm, state, test, numbers):
    """The mean loss of each client with its own model, in NumPy."""
    out = []
    for i, number in enumerate(numbers):
        kept = jtu.tree_map(lambda x: np.asarray(x)[number], state.clients)  # noqa: B023
        model = algorithm.own_model(state, kept)
        rows = {name: np.asarray(x, float) for name, x in test.client(i).items()}
        weight, bias = np.asarray(model.weight, float), float(model.bias)
        out.append(np.mean(0.5 * (rows["x"] @ weight + bias - rows["y"]) ** 2))
    return np.array(out)


@pytest.mark.parametrize("name", ("FedPer", "LocalOnly", "FedAvg", "Ditto"))
def test_each_has_its_own(name):
    algorithm, state = trained(name)
    found = eqf.evaluate_personal(algorithm, state, TEST, loss, clients=TRAIN)
    wanted = by_hand(algorithm, state, TEST, [3, 0, 2, 4])
    np.testing.assert_allclose(found.values["loss"], wanted, rtol=1e-5)
    assert found.client_ids == list(TEST.client_ids)
    assert found.unseen == ()
    if name != "FedAvg":
        one = eqf.evaluate(state.model, TEST, loss, per_client=True).values["loss"]
        assert (np.abs(one - wanted) > 1e-4).sum() >= 3


def round_of(algorithm, train=TRAIN):
    state = algorithm.init(MODEL, num_clients=len(train), key=KEY)
    cohort = eqf.data.cohort(train, BATCHING)
    after, metrics = algorithm.round(state, cohort, key=KEY)
    return state, after, {name: float(x) for name, x in metrics.items()}


def test_own_models_that_diverge_leave_the_servers_training_alone():
    make = functools.partial(eqf.Ditto, loss, optax.sgd(0.05), BATCHING, lam=0.1)
    _, wanted, sane = round_of(make())
    before, after, metrics = round_of(make(own_optim=optax.sgd(1e30)))
    assert metrics["nonfinite"] == metrics["clients"] == sane["clients"] > 1
    assert metrics["loss"] == pytest.approx(sane["loss"], rel=1e-6)
    for x, y in ((after.params, wanted.params), (after.clients, before.clients)):
        for a, b in zip(jtu.tree_leaves(x), jtu.tree_leaves(y), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_who_diverges_alone_has_not_taken_part():
    columns = {name: np.array(x) for name, x in TRAIN.columns.items()}
    columns["x"][: TRAIN.offsets[1]] = np.inf  # those of the first client
    bad = eqf.data.FederatedDataset(columns, TRAIN.offsets, TRAIN.client_ids)
    algorithm = eqf.LocalOnly(loss, optax.sgd(0.05), BATCHING)
    _, wanted, sane = round_of(algorithm)
    before, after, metrics = round_of(algorithm, bad)
    assert metrics["nonfinite"] == 1
    assert metrics["clients"] == sane["clients"] - 1
    assert np.isfinite(metrics["loss"])
    np.testing.assert_array_equal(
        after.clients.personal.weight[0], before.clients.personal.weight[0]
    )
    np.testing.assert_allclose(
        after.clients.personal.weight[1:], wanted.clients.personal.weight[1:]
    )


def test_chunks_do_not_show(monkeypatch):
    algorithm, state = trained("LocalOnly")
    noisy = lambda m, e, k: loss(m, e, k) + jr.normal(k, ())  # noqa: E731
    call = functools.partial(
        eqf.evaluate_personal, algorithm, state, TEST, noisy, clients=TRAIN
    )
    whole = call().values["loss"]
    monkeypatch.setattr(personal, "_CHUNK", 2 * 4 * 4)
    np.testing.assert_allclose(call().values["loss"], whole, rtol=1e-5)


def test_rows_may_lie_on_the_host():
    algorithm, state = trained("LocalOnly")
    host = eqx.tree_at(lambda s: s.clients, state, jax.device_get(state.clients))
    call = functools.partial(
        eqf.evaluate_personal, algorithm, test=TEST, metrics=loss, clients=TRAIN
    )
    np.testing.assert_array_equal(
        call(state=host).values["loss"], call(state=state).values["loss"]
    )


def test_who_was_not_trained_with():
    algorithm, state = trained("FedPer")
    test = of([NAMES[0], "new"])
    found = eqf.evaluate_personal(algorithm, state, test, loss, clients=TRAIN)
    assert found.unseen == ("new",)
    one = eqf.evaluate(state.model, test.select([1]), loss)["loss"]
    np.testing.assert_allclose(found.values["loss"][1], one, rtol=1e-6)


def test_a_client_without_rows_is_nan():
    algorithm, state = trained("FedPer")
    made = testing.ragged_clients((4, 0))
    test = eqf.data.FederatedDataset(made.columns, made.offsets, [NAMES[1], NAMES[0]])
    found = eqf.evaluate_personal(algorithm, state, test, loss, clients=TRAIN)
    assert np.isnan(found.values["loss"]).tolist() == [False, True]
    assert found.mean("loss") == pytest.approx(float(found.values["loss"][0]))


TUNE = eqf.FineTune(loss, optax.sgd(0.05), BATCHING)


def tuned_by_hand(model, dataset):
    """One round of clients alone, all from this model."""
    algorithm = eqf.LocalOnly(loss, optax.sgd(0.05), BATCHING)
    state = algorithm.init(model, num_clients=len(dataset))
    cohort = eqf.data.cohort(dataset, BATCHING)
    return algorithm, algorithm.round(state, cohort, key=KEY)[0]


def test_fine_tuning():
    algorithm, state = trained("FedAvg")
    found = eqf.evaluate_personal(
        algorithm, state, TEST, loss, clients=TRAIN, fine_tune=TUNE
    )
    wanted = by_hand(*tuned_by_hand(state.model, TRAIN), TEST, [3, 0, 2, 4])
    np.testing.assert_allclose(found.values["loss"], wanted, rtol=1e-5)


def test_fine_tuning_who_was_not_trained_with_and_only_a_part():
    algorithm, state = trained("FedPer")
    test, support = of([NAMES[0], "new"]), of(["new", NAMES[0]], seed=8)
    tune = eqf.FineTune(
        loss, optax.sgd(0.05), BATCHING, roles=eqf.roles(MODEL, shared=lambda m: m.bias)
    )
    found = eqf.evaluate_personal(
        *(algorithm, state, test, loss),
        clients=TRAIN,
        fine_tune=tune,
        support=support,
    )
    frozen = eqx.tree_at(
        lambda m: m.weight, state.model, replace_fn=jax.lax.stop_gradient
    )
    head = eqf.LocalOnly(loss, optax.sgd(0.05), BATCHING)
    begun = head.init(
        frozen, num_clients=2, roles=eqf.roles(MODEL, frozen=lambda m: m.weight)
    )
    bias = jnp.stack([state.model.bias, state.clients.personal.bias[0]])
    begun = eqx.tree_at(lambda s: s.clients.personal.bias, begun, bias)
    cohort = eqf.data.cohort(support, BATCHING)
    after, _ = head.round(begun, cohort, key=KEY)
    wanted = by_hand(head, after, test, [1, 0])
    np.testing.assert_allclose(found.values["loss"], wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ("FedPer", "LocalOnly", "FedAvg"))
def test_fine_tuning_on_several_devices(name):
    """With a client who is not tuned, and one who was not trained with."""
    algorithm, state = trained(name)
    tune = eqf.FineTune(testing.noisy_loss, SGD, BATCHING)
    options: dict[str, Any] = {
        "clients": TRAIN,
        "fine_tune": tune,
        "support": of([*NAMES[1:], "new"]),
    }
    test = of([NAMES[3], "new", NAMES[1], NAMES[4]])
    one = eqf.evaluate_personal(algorithm, state, test, loss, **options)
    mesh = jax.make_mesh((2,), ("clients",))
    two = eqf.evaluate_personal(algorithm, state, test, loss, mesh=mesh, **options)
    np.testing.assert_allclose(two.values["loss"], one.values["loss"], rtol=1e-6)
    assert np.isfinite(one.values["loss"]).all()
    assert two.unseen == one.unseen == ("new",)


def test_fine_tuning_that_diverges_is_told():
    algorithm, state = trained("FedAvg")
    tune = eqf.FineTune(loss, optax.sgd(1e30), BATCHING)
    with pytest.warns(UserWarning, match="Fine-tuning diverged for 3 clients"):
        found = eqf.evaluate_personal(
            algorithm, state, TEST, loss, clients=TRAIN, fine_tune=tune
        )
    # One has no example to diverge on.
    assert np.isnan(found.values["loss"]).tolist() == [True, True, False, True]


def test_it_compiles_once():
    algorithm, state = trained("FedPer")
    call = functools.partial(
        eqf.evaluate_personal,
        algorithm,
        state,
        TEST,
        loss,
        clients=TRAIN,
        fine_tune=TUNE,
    )
    call()
    with compilations() as programs:
        call()
    assert programs == []


def test_while_training(tmp_path):
    of_test = eqf.Personal(eqf.ClientQuantiles(TEST, (0.5,)))
    algorithm = eqf.FedPer(loss, SGD, BATCHING)

    def run(num_rounds, directory):
        return eqf.train(
            *(algorithm, MODEL, LOADER),
            num_rounds=num_rounds,
            key=KEY,
            roles=PERSONAL,
            eval_every=2,
            evaluation={"test": of_test, "tuned": eqf.Personal(TEST, fine_tune=TUNE)},
            checkpointer=eqf.Checkpointer(tmp_path / directory, every=1),
        )

    solution = run(3, "a")
    rounds, _ = solution.values("test/loss/clients")
    assert rounds == [2, 3]
    found = eqf.evaluate_personal(algorithm, solution.state, TEST, loss, clients=TRAIN)
    last = solution.history[-1]
    assert last["test/loss/clients"] == pytest.approx(found.mean("loss"))
    assert last["test/loss"] == pytest.approx(found.mean("loss", by="examples"))
    assert last["test/loss/p50"] == pytest.approx(found.quantiles("loss", (0.5,))[0.5])
    assert last["tuned/loss/clients"] != last["test/loss/clients"]
    run(1, "b")
    resumed = run(3, "b").history
    assert resumed[1:] == solution.history[1:]


def test_quantiles_and_the_worst_by_hand():
    """Four clients: between the ranks quantiles are on a line, and a tenth of four is
    a part of the worst one."""
    algorithm, state = trained("LocalOnly")
    some = [0, 1, 3, 4]
    test = of([NAMES[i] for i in some])
    a, b, c, d = np.sort(by_hand(algorithm, state, test, some))
    found = eqf.evaluate_personal(algorithm, state, test, loss, clients=TRAIN)
    table = eqf.ClientComparison({"own": found}, "loss", mode="min")
    wanted = {
        "mean": (a + b + c + d) / 4,
        "p10": a + 0.3 * (b - a),
        "p50": (b + c) / 2,
        "p90": c + 0.7 * (d - c),
        "worst 10%": d,
    }
    for name, value in wanted.items():
        assert table.rows[0][name] == pytest.approx(value, rel=1e-5), name
    # Of a worst half there are two.
    assert found.tail("loss", 0.5, end="high") == pytest.approx((c + d) / 2, rel=1e-5)
    solution = eqf.train(
        *(algorithm, MODEL, LOADER),
        num_rounds=3,
        key=KEY,
        evaluation={"own": eqf.Personal(eqf.ClientQuantiles(test, tail=0.1))},
        eval_every=3,
    )
    last = solution.history[-1]
    a, b, c, d = np.sort(by_hand(algorithm, solution.state, test, some))
    wanted = {"min": a, "p10": a + 0.3 * (b - a), "p90": c + 0.7 * (d - c)}
    wanted |= {"max": d, "low10": a, "high10": d}
    for name, value in wanted.items():
        assert last[f"own/loss/{name}"] == pytest.approx(value, rel=1e-5), name


def test_several_seeds_in_one_program():
    keys = jr.split(KEY, 2)
    algorithms = {
        "FedPer": eqf.FedPer(loss, SGD, BATCHING),
        "FedAvg": eqf.FedAvg(loss, SGD, BATCHING),
    }
    runs = eqf.sweep(
        algorithms,
        lambda key: MODEL,
        LOADER,
        num_rounds=2,
        keys=keys,
        evaluation={"test": eqf.Personal(TEST)},
        roles={"FedPer": PERSONAL},
    )
    one = eqf.train(
        *(algorithms["FedPer"], MODEL, LOADER),
        num_rounds=2,
        key=keys[1],
        evaluation={"test": eqf.Personal(TEST)},
        roles=PERSONAL,
    )
    got, wanted = runs["FedPer"][1].history[-1], one.history[-1]
    assert got["test/loss/clients"] == pytest.approx(wanted["test/loss/clients"])
    assert "test/loss" in runs["FedAvg"][0].history[-1]


def test_wherever_the_clients_states_lie(tmp_path):
    def run(where):
        return eqf.train(
            *(eqf.FedPer(loss, SGD, BATCHING), MODEL, LOADER),
            num_rounds=2,
            key=KEY,
            roles=PERSONAL,
            evaluation={"test": eqf.Personal(of([NAMES[0], "new", NAMES[3]]))},
            client_states=where,
        )

    device = run("device")
    for where in ("host", tmp_path / "rows"):
        other = run(where)
        assert other.history == device.history
        np.testing.assert_array_equal(
            np.asarray(other.state.clients.personal.bias),
            np.asarray(device.state.clients.personal.bias),
        )
