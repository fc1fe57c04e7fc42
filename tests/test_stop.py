"""What ends a training early, with its best model, also if it was killed before."""

import shutil
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
from equifed._evaluate.made import gives_own

from .algorithms import ALGORITHMS


BATCHING = eqf.data.Epochs(1, batch_size=4)
DATASET = testing.ragged_clients((5, 0, 3, 8, 6))
# A rate at which the loss falls, and rises and falls again.
ALGORITHM = eqf.FedAvg(testing.noisy_loss, optax.sgd(0.1), BATCHING)


def train(num_rounds=30, **kwargs):
    sampler = eqf.data.UniformSampler(3, seed=1)
    defaults: dict[str, Any] = {
        "model": testing.Linear(),
        "loader": eqf.data.Loader(DATASET, sampler, BATCHING),
        "key": jr.key(0),
        "evaluation": {"all": DATASET},
        "eval_every": 2,
    }
    return eqf.train(ALGORITHM, num_rounds=num_rounds, **{**defaults, **kwargs})


@pytest.fixture(scope="module")
def whole():
    return train()


def same(x, y):
    return bool(eqx.tree_equal(x, y))


def rows(values, every=10):
    return [
        {"round": every * (i + 1), "m": v, "nonfinite_model": 0}
        for i, v in enumerate(values)
    ]


@pytest.mark.parametrize(
    "stop, values, ends",
    [
        (eqf.Target("m", 0.5, mode="max"), [0.1, 0.4, 0.5, 0.2], 3),
        (eqf.Target("m", 0.5, mode="min"), [0.9, 0.6, 0.5, 0.2], 3),
        (eqf.Target("m", 0.5, mode="max"), [0.1, np.nan, 0.2], None),
        (eqf.Patience("m", rounds=20, mode="min"), [3.0, 2.0, 2.5, 2.0, 0.0], 4),
        (eqf.Patience("m", rounds=15, mode="min"), [3.0, 2.0, 2.5, 2.0, 0.0], 4),
        (eqf.Patience("m", rounds=20, mode="max"), [1.0, 2.0, 3.0, 4.0], None),
        (eqf.Patience("m", rounds=20, mode="min"), [2.0, np.nan, np.nan, 1.0], 3),
        (eqf.Patience("m", rounds=10, mode="min"), [np.nan, np.nan], 2),
        (
            eqf.Patience("m", rounds=20, mode="min", min_delta=1.0),
            [5.0, 4.5, 4.0, 3.9, 3.0],
            3,
        ),
        (
            eqf.Patience("m", rounds=20, mode="min", min_delta=1.0),
            [5.0, 4.5, 3.9, 3.0, 2.95],
            5,
        ),
    ],
)
def test_when_it_ends(stop, values, ends):
    history = rows(values)
    ended = [n for n in range(1, len(values) + 1) if stop(history[:n])]
    assert (ended[0] if ended else None) == ends


def test_the_best_is_the_first_of_the_best():
    stop = eqf.Target("m", 9.0, mode="max")
    assert stop.best(rows([1.0, 3.0, np.nan, 3.0])) == 20
    assert eqf.Target("m", 9.0, mode="min").best(rows([1.0, 3.0, 1.0])) == 10
    assert stop.best(rows([np.nan])) is None


def test_a_target_ends_at_its_model(whole):
    rounds, losses = whole.values("all/loss")
    at = int(np.argmin(losses))
    assert 0 < at < len(rounds) - 1
    got = train(stop=eqf.Target("all/loss", losses[at], mode="min"))
    assert got.result == eqf.RESULTS.stopped
    assert got.best_round == rounds[at] == got.history[-1]["round"]
    assert got.history == whole.history[: rounds[at]]
    assert same(got.model, train(rounds[at]).model)
    assert "stopped" in repr(got)
    assert f"best in round {rounds[at]}" in repr(got)


def expected_end(history, stop) -> tuple[int, int]:
    evaluated = [row for row in history if "all/loss" in row]
    for n in range(1, len(evaluated) + 1):
        if stop(evaluated[:n]):
            return evaluated[n - 1]["round"], stop.best(evaluated[:n])
    return 0, 0


@pytest.fixture(scope="module")
def patience(whole):
    """One that ends early, after its best model was some rounds ago."""
    for rounds in (4, 6, 8, 10):
        stop = eqf.Patience("all/loss", rounds=rounds, mode="min")
        end = expected_end(whole.history, stop)
        if end[0] - end[1] >= 4 and end[1] > 2:
            return stop, *end
    raise AssertionError("No patience ends this training.")


@pytest.mark.parametrize("rounds_per_call", [1, 5])
def test_patience_gives_the_best_model(whole, patience, rounds_per_call):
    stop, end, best = patience
    got = train(stop=stop, rounds_per_call=rounds_per_call)
    assert got.result == eqf.RESULTS.stopped
    assert (got.history[-1]["round"], got.best_round) == (end, best)
    assert int(got.state.round) == end
    expected = train(best, rounds_per_call=rounds_per_call).model
    assert same(got.model, expected)
    assert not same(got.model, train(end, rounds_per_call=rounds_per_call).model)


def test_one_that_does_not_end_has_the_best_model(whole):
    rounds, losses = whole.values("all/loss")
    got = train(stop=eqf.Target("all/loss", -1.0, mode="min"))
    assert got.result == eqf.RESULTS.successful
    assert got.best_round == rounds[int(np.argmin(losses))]
    assert same(got.model, train(got.best_round or 0).model)
    assert got.history == whole.history
    assert same(got.state, whole.state)


def test_the_last_round_counts(whole):
    # It is evaluated, though no multiple of `eval_every`.
    got = train(7, stop=eqf.Target("all/loss", 9.0, mode="min"), eval_every=10)
    assert got.best_round == 7
    assert got.result == eqf.RESULTS.stopped


@pytest.mark.parametrize(
    ("kind", "cut"),
    [("kill", 1), ("kill", 3), ("kill", 8), ("num_rounds", 2), ("num_rounds", 5)],
)
def test_resumed_it_ends_there_with_the_same_bits(patience, tmp_path, cut, kind):
    stop, end, best = patience
    cut = min(cut, end - 1)
    kwargs: Any = {"stop": stop}
    make = lambda: eqf.Checkpointer(tmp_path / "run", every=1, keep=1)  # noqa: E731
    if kind == "num_rounds":
        train(cut, checkpointer=make(), **kwargs)  # Its last round is not the last.
    else:

        class Kill(eqf.JSONLines):
            def log(self, round, metrics):
                if round > cut:
                    raise KeyboardInterrupt

        logger = Kill(tmp_path / "log.jsonl")
        with pytest.raises(KeyboardInterrupt):
            train(checkpointer=make(), logger=logger, **kwargs)
    got = train(checkpointer=make(), **kwargs)
    expected = train(**kwargs)
    assert (got.history[-1]["round"], got.best_round) == (end, best)
    assert got.result == eqf.RESULTS.stopped
    assert same(got.model, expected.model)
    assert same(got.state, expected.state)
    # Once more: it has ended.
    again = train(checkpointer=make(), **kwargs)
    assert again.result == eqf.RESULTS.stopped
    assert (len(again.history), again.best_round) == (end, best)
    assert same(again.model, expected.model)


def test_another_stop_is_another_experiment(tmp_path):
    make = lambda: eqf.Checkpointer(tmp_path, every=1)  # noqa: E731
    stop = eqf.Patience("all/loss", rounds=50, mode="min")
    train(2, stop=stop, checkpointer=make())
    other = eqf.Patience("all/loss", rounds=60, mode="min")
    with pytest.raises(ValueError, match="`stop.rounds` 50 -> 60"):
        train(4, stop=other, checkpointer=make())
    with pytest.raises(ValueError, match="`stop.eval_every` 2 -> 3"):
        train(4, stop=stop, eval_every=3, checkpointer=make())
    with pytest.raises(ValueError, match="of a training with a `stop`. Give the same"):
        train(4, checkpointer=make())
    shutil.rmtree(tmp_path)
    train(2, checkpointer=make())
    with pytest.raises(ValueError, match="of a training without a `stop`. Give no"):
        train(4, stop=stop, checkpointer=make())


class Third(eqf.AbstractStop):
    """One of the user's own."""

    metric: str = "loss"
    mode: str = "min"

    def __call__(self, history):
        return len(history) == 3


@pytest.mark.parametrize("evaluation", [None, {"all": DATASET}])
def test_a_stop_of_ones_own(evaluation):
    # It is asked where the training would be evaluated, also if nothing is.
    got = train(stop=Third(), evaluation=evaluation, eval_every=4, rounds_per_call=3)
    assert got.history[-1]["round"] == 12
    losses = {n: got.history[n - 1]["loss"] for n in (4, 8, 12)}
    assert got.best_round == min(losses, key=lambda n: losses[n])


def test_on_a_mesh():
    mesh = jax.make_mesh((2,), ("clients",))
    sampler = eqf.data.UniformSampler(3, seed=1)
    loader = eqf.data.Loader(DATASET, sampler, BATCHING, mesh=mesh)
    got = train(stop=Third(), loader=loader)
    assert got.history[-1]["round"] == 6
    for x in jtu.tree_leaves(got.model):
        assert x.sharding.device_set == set(mesh.devices.flat)


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_diverges_leaves_the_best():
    algorithm = eqf.FedAvg(testing.noisy_loss, optax.sgd(1e6), BATCHING)
    sampler = eqf.data.UniformSampler(3, seed=1)
    loader = eqf.data.Loader(DATASET, sampler, BATCHING)
    got = eqf.train(
        *(algorithm, testing.Linear(), loader),
        num_rounds=60,
        key=jr.key(0),
        evaluation={"all": DATASET},
        eval_every=1,
        stop=eqf.Target("all/loss", -1.0, mode="min"),
    )
    assert got.result == eqf.RESULTS.nonfinite_model
    _, losses = got.values("all/loss")
    assert got.best_round == 1 + int(np.nanargmin(losses[:-1]))
    assert len(got.history) > (got.best_round or 0)
    assert np.isfinite(np.asarray(got.model.weight)).all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Ditto", "best of the server's models, and 'own' measures the clients' own"),
        ("FedRoD", "best of the server's models, and 'own' measures the clients' own"),
        ("LocalOnly", "trains several has none that is the one"),
        ("FedPer", "a part of it is each client's own"),
    ],
)
def test_models_that_are_not_kept_do_not_stop_a_training(name, words):
    algorithm, model = ALGORITHMS[name](testing.noisy_loss, BATCHING), testing.Linear()
    loader = eqf.data.Loader(DATASET, eqf.data.UniformSampler(3), BATCHING)
    with pytest.raises(ValueError, match=words):
        eqf.train(
            *(algorithm, model, loader),
            num_rounds=3,
            key=jr.key(0),
            evaluation={"own": eqf.Personal(DATASET)},
            roles=eqf.roles(model, personal=lambda m: m.bias)
            if algorithm.needs
            else None,
            stop=eqf.Target("own/loss", 0.0, mode="min"),
        )


def test_whose_model_is_the_servers():
    """Of all whose clients keep something."""
    own = set()
    for name, make in ALGORITHMS.items():
        algorithm = make(testing.noisy_loss, eqf.data.Epochs(2, batch_size=4))
        if algorithm.needs or isinstance(algorithm, eqf.IFCA | eqf.HypCluster):
            continue

        def other(algorithm):
            state = algorithm.init(testing.Linear(), num_clients=3, key=jr.key(0))
            return gives_own(algorithm, state)

        if eqx.filter_eval_shape(other, algorithm):
            own.add(name)
    assert own >= {
        "Ditto",
        "APFL",
        "PFedMe",
        "LocalOnly",
        "FedALA",
        "FedRoD",
        "FedProto",
    }
    assert not own & {"FedAvg", "Scaffold-2", "Mime", "DiLoCo", "MOON", "PerFedAvg"}


def test_a_metric_that_there_is_not():
    stop = eqf.Target("accuracy", 0.9, mode="max")
    with pytest.raises(ValueError, match="no metric 'accuracy'. It has: .*all/error"):
        train(stop=stop)

    def listed(model, example, key):
        return {"two": eqf.Sum(jnp.ones(2))}

    with pytest.raises(TypeError, match="'all/two' of `stop` must be a number"):
        train(stop=eqf.Target("all/two", 1.0, mode="max"), metrics=listed)
