"""Training: what is recorded, what ends it, and what survives it."""

import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
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


BATCHING = eqf.data.Epochs(1, batch_size=4)
DATASET = testing.ragged_clients((5, 0, 3, 8, 6))
KEY = jr.key(0)


def make(kind: Any = eqf.FedAvg, rate=0.1, **kwargs):
    return kind(testing.noisy_loss, optax.sgd(rate), BATCHING, **kwargs)


def loader_of(sampler=None, dataset=DATASET, **kwargs):
    sampler = eqf.data.UniformSampler(3, seed=1) if sampler is None else sampler
    return eqf.data.Loader(dataset, sampler, BATCHING, **kwargs)


def train(algorithm=None, num_rounds=5, **kwargs):
    algorithm = make() if algorithm is None else algorithm
    kwargs = {"loader": loader_of(), "model": testing.Linear(), "key": KEY, **kwargs}
    return eqf.train(algorithm, num_rounds=num_rounds, **kwargs)


def same_bits(x, y):
    assert jtu.tree_structure(x) == jtu.tree_structure(y)
    return all(map(np.array_equal, jtu.tree_leaves(x), jtu.tree_leaves(y)))


def assert_same_bits(x, y):
    assert same_bits(x, y)


def copied(tree):
    return jtu.tree_map(np.array, tree)


class Poisoned(eqf.data.AbstractSampler):
    """Clients 0 and 1, and client 2, but from some round on client 3."""

    start: int
    seed: int

    def __init__(self, start):
        self.start, self.seed = start, 0

    def __call__(self, round, num_clients):
        return np.array([0, 1, 3 if round >= self.start else 2])

    def max_clients(self, num_clients):
        return 3


class Only(eqf.data.AbstractSampler):
    """Always the same clients, but others in some rounds."""

    clients: tuple[int, ...]
    others: tuple[int, ...]
    when: tuple[int, ...]
    seed: int

    def __init__(self, clients, others, when):
        self.clients, self.others, self.when = clients, others, when
        self.seed = 0

    def __call__(self, round, num_clients):
        return np.array(self.others if round in self.when else self.clients, np.int64)

    def max_clients(self, num_clients):
        return num_clients


def poisoned(bad):
    columns = {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}
    clients = {name: dict(columns) for name in "wxyz"}
    clients["z"]["b"] = np.full(2, bad, np.float32)
    return eqf.data.FederatedDataset.from_mapping(clients)


def test_the_history():
    test = testing.ragged_clients((4, 4), seed=5)
    evaluation = {"test": test, "train": DATASET}
    got = train(num_rounds=7, evaluation=evaluation, eval_every=3)
    assert got.result == eqf.RESULTS.successful
    assert [row["round"] for row in got.history] == [1, 2, 3, 4, 5, 6, 7]
    always = {"round", "loss", "error", "clients", "nonfinite", "nonfinite_model"}
    always |= {"bits_up", "bits_down"}
    measured = {f"{name}/{m}" for name in evaluation for m in ("loss", "error")}
    for row in got.history:
        # After every third round, and after the last one.
        extra = measured if row["round"] in (3, 6, 7) else set()
        assert set(row) == always | extra
        assert all(isinstance(x, int | float) for x in row.values())
    assert got.values("test/loss")[0] == [3, 6, 7]
    assert got.values("loss") == (list(range(1, 8)), [r["loss"] for r in got.history])
    assert got.state.round == 7
    assert_same_bits(got.model, got.state.model)
    last = eqf.evaluate(got.model, test, testing.noisy_loss)
    assert got.history[-1]["test/loss"] == last["loss"]
    for name in ("accuracy", "round"):  # what `values` gives first is no metric
        with pytest.raises(ValueError, match=f"no metric '{name}'.*error, loss.*test"):
            got.values(name)
    assert repr(got) == (
        f"Solution(successful, round 7, loss {got.history[-1]['loss']:.4g}, "
        f"test/error {last['error']:.4g}, test/loss {last['loss']:.4g}, train/error "
        f"{got.history[-1]['train/error']:.4g}, train/loss "
        f"{got.history[-1]['train/loss']:.4g}, 4 params)"
    )
    assert "ran to its end" in repr(got.result)


def test_other_metrics_than_the_loss():
    def metrics(model, example, key):
        return {"size": jnp.abs(model.weight).sum()}

    got = train(evaluation={"all": DATASET}, metrics=metrics, eval_every=5)
    rounds, (size,) = got.values("all/size")
    assert rounds == [5]
    np.testing.assert_allclose(size, np.abs(got.model.weight).sum(), rtol=1e-6)


def test_the_training_loss_is_the_mean_over_visits():
    # One client, by hand: two epochs of two examples one at a time.
    problem = testing.Quadratics((2.0,), (1.0,), (2,))
    batching = eqf.data.Epochs(2, batch_size=1)
    algorithm = eqf.FedAvg(testing.quadratic_loss, optax.sgd(0.1), batching)
    loader = eqf.data.Loader(problem.dataset(), eqf.data.AllClients(), batching)
    got = eqf.train(algorithm, testing.Point(3.0), loader, num_rounds=2, key=KEY)
    x = 1 + 2 * 0.8 ** np.arange(8)
    losses = ((x - 1) ** 2).reshape(2, 4).mean(1)
    np.testing.assert_allclose(got.values("loss")[1], losses, rtol=1e-5)


def test_training_is_rounds():
    algorithm, state = make(eqf.Scaffold), None
    got = train(algorithm, 4)
    start = algorithm.init(testing.Linear(), num_clients=5)
    seen = []
    iterator = eqf.rounds(algorithm, start, loader_of(), num_rounds=4, key=KEY)
    for state, metrics in iterator:
        seen.append((int(state.round), float(metrics["loss"])))
    assert state is not None
    assert_same_bits(state.model, got.model)
    assert seen == [(row["round"], row["loss"]) for row in got.history]
    # And both are `round` by hand.
    by_hand = start
    for number in range(4):
        by_hand, _ = algorithm.round(by_hand, loader_of()(number), key=KEY)
    jtu.tree_map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), by_hand, state
    )


def test_what_the_user_gave_survives():
    model = testing.Linear()
    before = copied(model)
    algorithm = make(eqf.Scaffold)
    train(algorithm, model=model)
    state = algorithm.init(model, num_clients=5)
    kept = copied(state)
    for _ in eqf.rounds(algorithm, state, loader_of(), num_rounds=3, key=KEY):
        pass
    algorithm.round(state, loader_of()(0), key=KEY)
    for x, y in ((model, before), (state, kept)):
        assert not any(leaf.is_deleted() for leaf in jtu.tree_leaves(x))
        jtu.tree_map(np.testing.assert_array_equal, x, y)


def test_going_on_from_a_solution():
    whole = train(num_rounds=6)
    half = train(num_rounds=3)
    state = half.state
    for state, _ in eqf.rounds(  # noqa: B007
        make(), half.state, loader_of(), num_rounds=6, key=KEY
    ):
        pass
    assert_same_bits(state, whole.state)


def test_no_rounds():
    got = train(num_rounds=0)
    assert got.history == []
    assert got.result == eqf.RESULTS.successful
    assert got.state.round == 0
    assert_same_bits(got.model, testing.Linear())


@pytest.mark.parametrize("prefetch", (0, 2))
def test_leaving_the_loop_early(prefetch):
    algorithm = make()
    state = algorithm.init(testing.Linear(), num_clients=5)
    loader = loader_of(prefetch=prefetch)
    iterator = eqf.rounds(algorithm, state, loader, num_rounds=100, key=KEY)
    for state, _ in iterator:
        if state.round == 2:
            break
    assert state.round == 2


@pytest.mark.parametrize("make_algorithm", (eqf.FedAvg, eqf.FedAvgM, eqf.Scaffold))
def test_a_round_without_participants(make_algorithm):
    # In round 1 nobody comes, in round 3 only the client without examples.
    sampler = eqf.data.PoissonSampler(0.4, seed=179)
    assert [[*sampler(i, 5)] for i in (1, 3)] == [[], [1]]
    algorithm = make(make_algorithm)
    loader = loader_of(sampler)
    state = algorithm.init(testing.Linear(), num_clients=5)
    states = [copied(state)]
    for state, metrics in eqf.rounds(algorithm, state, loader, num_rounds=5, key=KEY):  # noqa: B020
        drawn = set(sampler(int(state.round) - 1, 5)) - {1}
        assert metrics["clients"] == len(drawn)
        # A mean over nobody.
        assert np.isnan(metrics["loss"]) == (state.round in (2, 4))
        states.append(copied(state))
    for number in range(5):
        before, after = states[number], states[number + 1]
        assert after.round == number + 1
        before = eqx.tree_at(lambda s: s.round, before, after.round)
        assert same_bits(before, after) == (number in (1, 3))


def test_nobody_at_all():
    algorithm = make(eqf.FedAvgM)
    cohort = eqf.data.cohort(DATASET, BATCHING, clients=[])
    state = algorithm.init(testing.Linear(), num_clients=5)
    new, metrics = algorithm.round(state, cohort, key=KEY)
    assert metrics["clients"] == 0
    assert np.isnan(metrics["loss"])
    assert_same_bits(new.model, state.model)


@pytest.mark.parametrize("rounds_per_call", (1, 8))
@pytest.mark.parametrize("bad, rate", ((np.nan, 0.1), (np.inf, 0.1), (1e30, 1e10)))
def test_a_nonfinite_model_ends_training(bad, rate, rounds_per_call, tmp_path):
    # In the last case it is the step that overflows, from finite data.
    dataset = poisoned(bad)
    algorithm = eqf.Scaffold(testing.quadratic_loss, optax.sgd(rate), BATCHING)
    loader = eqf.data.Loader(dataset, Poisoned(3), BATCHING)
    kwargs = {"model": testing.Point(1.0), "key": KEY}
    good = eqf.train(algorithm, loader=loader, num_rounds=3, **kwargs)
    checkpointer = eqf.Checkpointer(tmp_path, every=2)
    recorder = Recorder()
    with pytest.warns(UserWarning, match="became non-finite.*DropNonfinite") as warned:
        got = eqf.train(
            algorithm,
            loader=loader,
            num_rounds=10,
            checkpointer=checkpointer,
            logger=recorder,
            evaluation={"all": dataset.select(["x", "y"])},
            rounds_per_call=rounds_per_call,
            **kwargs,
        )
    assert {warning.filename for warning in warned} == {__file__}
    assert got.result == eqf.RESULTS.nonfinite_model
    assert "DropNonfinite" in eqf.RESULTS[got.result]
    assert [row["round"] for row in got.history] == [1, 2, 3, 4]
    assert got.history[-1]["nonfinite_model"] == 1
    assert got.history[-1]["nonfinite"] == 1
    # The last good state, evaluated and on record.
    assert_same_bits(got.model, good.model)
    assert_same_bits(got.state.clients, good.state.clients)
    assert math.isfinite(got.history[-1]["all/loss"])
    assert [number for number, _ in recorder.rows] == [1, 2, 3, 4]
    assert recorder.closed
    like = algorithm.init(testing.Point(1.0), num_clients=4)
    restored = checkpointer.restore(like)
    assert restored is not None
    assert np.isfinite(restored[1].model.x)


def test_dropping_the_diverged_trains_on():
    algorithm = eqf.FedAvg(
        testing.quadratic_loss,
        optax.sgd(0.1),
        BATCHING,
        aggregator=eqf.DropNonfinite(eqf.WeightedMean()),
    )
    loader = eqf.data.Loader(poisoned(np.nan), Poisoned(3), BATCHING)
    with pytest.warns(UserWarning, match="round 4 are.*'b' of client 'z' holds nan"):
        got = eqf.train(algorithm, testing.Point(2.0), loader, num_rounds=6, key=KEY)
    assert got.result == eqf.RESULTS.successful
    # The others pull towards 1, by 0.9 in each round.
    np.testing.assert_allclose(got.model.x, 1 + 0.9**6, rtol=1e-5)
    assert got.values("nonfinite")[1] == [0, 0, 0, 1, 1, 1]
    assert got.values("clients")[1] == [3, 3, 3, 2, 2, 2]


def plain_loss(model, example, key):
    return (model.x - example["b"]) ** 2


def without_word(model, example, key):
    """A loss that is NaN for some examples, with a gradient that is not."""
    bad = jnp.where(example["label"] > 2, jnp.nan, 0.0)
    return plain_loss(model, example, key) + jax.lax.stop_gradient(bad)


def labelled(labels, b=1.0):
    clients = {
        name: {
            "b": np.full(len(label), b, np.float32),
            "label": np.array(label, np.uint8),
        }
        for name, label in labels.items()
    }
    return eqf.data.FederatedDataset.from_mapping(clients)


@pytest.mark.parametrize("rounds_per_call", (1, 2))
def test_a_loss_that_is_nan_is_no_success(rounds_per_call, tmp_path):
    dataset = labelled({"a": [0, 1], "b": [2, 1, 3], "c": [1]})
    loader = eqf.data.Loader(dataset, Only((0, 1), (0, 2), (0, 2)), BATCHING)
    algorithm = eqf.FedAvg(without_word, optax.sgd(0.1), BATCHING)

    def run(num_rounds):
        return eqf.train(
            algorithm,
            testing.Point(2.0),
            loader,
            num_rounds=num_rounds,
            key=KEY,
            rounds_per_call=rounds_per_call,
            checkpointer=eqf.Checkpointer(tmp_path),
        )

    where = "loss of round 2 is nan.*row 2 of client 'b': it has label = 3"
    with pytest.warns(UserWarning, match=where) as warned:
        got = run(2)
    assert [w.filename for w in warned] == [__file__]
    assert np.isnan(got.values("loss")[1]).tolist() == [False, True]
    assert got.result == eqf.RESULTS.nonfinite_loss
    assert repr(got).startswith("Solution(nonfinite_loss, round 2, loss nan, 1 params")
    # The third round is fine, but the training was not.
    assert run(3).result == eqf.RESULTS.nonfinite_loss


def with_metrics(model, example, key):
    """A loss that is finite, with metrics that are not always so."""
    bad = jnp.where(example["label"] > 2, jnp.nan, 0.0)
    rare = eqf.Average(1.0, example["label"] == 2)
    metrics = {
        "bad": bad,
        "worse": jnp.full_like(bad, -jnp.inf),
        "rare": rare,
        "good": 1.0,
    }
    return plain_loss(model, example, key), metrics


def test_another_metric_that_is_not_finite_is_told_of_once():
    dataset = labelled({"a": [0, 1], "b": [2, 1, 3], "c": [2]})

    def loss(model, example, key):
        value, metrics = with_metrics(model, example, key)
        return value, {name: metrics[name] for name in ("bad", "rare", "good")}

    def run(loss, sampler, num_rounds):
        algorithm = eqf.FedAvg(loss, optax.sgd(0.1), BATCHING)
        loader = eqf.data.Loader(dataset, sampler, BATCHING)
        model = testing.Point(2.0)
        return eqf.train(algorithm, model, loader, num_rounds=num_rounds, key=KEY)

    where = "round 2 of the training 'bad' is nan: .* row 2 of client 'b': it has label"
    with pytest.warns(UserWarning, match=where) as warned:
        got = run(loss, Only((1,), (2,), (0,)), 3)
    assert len(warned) == 1
    assert got.result == eqf.RESULTS.successful
    # A mean over nothing, and several at once.
    with pytest.warns(UserWarning, match="'rare' is nan: a mean over nothing"):
        run(loss, Only((0,), (), ()), 1)
    with pytest.warns(UserWarning, match="'bad' is nan, 'worse' is -inf: "):
        run(with_metrics, Only((1,), (), ()), 1)


def test_missing_values_are_named():
    loader = eqf.data.Loader(poisoned(np.nan), Poisoned(1), BATCHING)
    where = "became non-finite.*row 0 of client 'z': its column 'b' holds nan"
    algorithm = eqf.FedAvg(testing.quadratic_loss, optax.sgd(0.1), BATCHING)
    with pytest.warns(UserWarning, match=where):
        got = eqf.train(algorithm, testing.Point(2.0), loader, num_rounds=6, key=KEY)
    assert got.result == eqf.RESULTS.nonfinite_model


def test_missing_values_that_spoil_the_gradient_alone_are_named():
    def masked(model, example, key):
        b = example["b"]
        return jnp.where(jnp.isnan(b), 0.0, (model.x - b) ** 2)

    algorithm = eqf.FedAvg(masked, optax.sgd(0.1), BATCHING)
    loader = eqf.data.Loader(poisoned(np.nan), Poisoned(0), BATCHING)
    where = "data itself is not finite: column 'b' of client 'z' holds nan in row 0"
    with pytest.warns(UserWarning, match=where):
        eqf.train(algorithm, testing.Point(2.0), loader, num_rounds=1, key=KEY)


def test_missing_values_of_a_stream_are_named():
    loader = stream_loader([0, 1, 2, 3, 4, np.nan])
    algorithm = eqf.FedAvg(testing.quadratic_loss, optax.sgd(0.1), BATCHING)
    with pytest.warns(UserWarning, match="row 0 of client 'c': its column 'b' holds"):
        eqf.train(algorithm, testing.Point(2.0), loader, num_rounds=2, key=KEY)


def test_an_evaluation_without_a_round_is_told_of():
    algorithm = make(eqf.FedAvg)
    kwargs = {"num_rounds": 0, "key": KEY}
    with pytest.warns(UserWarning, match="`num_rounds` is 0.*`equifed.evaluate"):
        got = eqf.train(
            algorithm,
            testing.Linear(),
            loader_of(),
            evaluation={"test": DATASET},
            **kwargs,
        )
    assert got.history == []
    eqf.train(algorithm, testing.Linear(), loader_of(), **kwargs)


NOBODY = {
    "none was drawn": (eqf.data.PoissonSampler(1e-9), BATCHING),
    r"of the 2 that were drawn none has a message that counts \(one of weight 0 or": (
        eqf.data.AllClients(),
        eqf.data.Epochs(1, batch_size=16, last="drop"),
    ),
}


@pytest.mark.parametrize("why", NOBODY)
def test_nobody_took_part(why):
    sampler, batching = NOBODY[why]
    dataset = labelled({"a": [0, 1], "b": [2]})
    loader = eqf.data.Loader(dataset, sampler, batching)
    algorithm = eqf.FedAvg(plain_loss, optax.sgd(0.1), batching)
    with pytest.warns(UserWarning, match=f"No client took part in round 1: {why}") as w:
        got = eqf.train(algorithm, testing.Point(2.0), loader, num_rounds=3, key=KEY)
    assert len(w) == 1
    assert np.isnan(got.values("loss")[1]).all()
    assert got.result == eqf.RESULTS.no_messages
    assert got.values("clients")[1] == [0, 0, 0]


def test_a_sweep_chooses_a_sane_rate():
    cohort = eqf.data.cohort(DATASET, BATCHING)

    @eqx.filter_jit
    @eqx.filter_vmap
    def last_loss(rate):
        algorithm = make(rate=rate)
        state = algorithm.init(testing.Linear(), num_clients=5)

        def one_round(state, _):
            state, metrics = algorithm.round(state, cohort, key=KEY)
            return state, metrics["loss"]

        return jax.lax.scan(one_round, state, length=6)[1][-1]

    losses = last_loss(np.array([1e-3, 0.1, 1e10], np.float32))
    assert np.isfinite(losses).tolist() == [True, True, False], losses
    assert np.nanargmin(losses) == 1


def matrices(model, example, key):
    value, _ = testing.noisy_loss(model, example, key)
    logits = jnp.stack([value, 0.5 * jnp.ones_like(value), -value])
    return {
        "matrix": eqf.ConfusionMatrix(logits, 1),
        "two": eqf.Average(jnp.stack([value, value])),
    }


def test_arrays_in_the_history_survive_a_resume(tmp_path):
    kwargs: Any = {"evaluation": {"all": DATASET}, "metrics": matrices, "eval_every": 2}
    straight = train(num_rounds=4, **kwargs)
    train(num_rounds=2, checkpointer=eqf.Checkpointer(tmp_path), **kwargs)
    recorder = Recorder()
    resumed = train(
        num_rounds=4,
        checkpointer=eqf.Checkpointer(tmp_path),
        logger=recorder,
        **kwargs,
    )
    assert "all/matrix" not in recorder.rows[-1][1]  # loggers are given numbers
    for got in (straight, resumed):
        rounds, values = got.values("all/matrix")
        assert rounds == [2, 4]
        assert all(isinstance(x, np.ndarray) and x.shape == (3, 3) for x in values)
        assert values[0].sum() == DATASET.num_examples
    for name in ("all/matrix", "all/two"):
        for a, b in zip(straight.values(name)[1], resumed.values(name)[1], strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    again = eqf.evaluate(straight.model, DATASET, matrices)["matrix"]
    np.testing.assert_array_equal(straight.values("all/matrix")[1][-1], again)


def reports_a_path(model, example, key):
    return testing.noisy_loss(model, example, key)[0], {"test/loss": 1.0}


def test_metrics_do_not_overwrite_each_other():
    def a_loss(model, example, key):
        return {"loss": 1.0, "b/loss": 2.0}

    kwargs: Any = {"metrics": a_loss, "evaluation": {"a": DATASET, "a/b": DATASET}}
    two = "called 'a/b/loss' in the history: 'b/loss' of the evaluation 'a', and 'loss'"
    with pytest.raises(ValueError, match=two):
        train(**kwargs)
    algorithm = eqf.FedAvg(reports_a_path, optax.sgd(0.1), BATCHING)
    with pytest.raises(ValueError, match="'test/loss'.*a metric of the training, and"):
        train(algorithm, evaluation={"test": DATASET}, metrics=testing.noisy_loss)
    # A client of one's own says so in its first round.
    client = Reporting(algorithm.loss, BATCHING)
    own = eqf.Algorithm(client, algorithm.aggregator, algorithm.server)
    with pytest.raises(ValueError, match="'all/loss'.*a metric of the training, and"):
        train(own, evaluation={"all": DATASET}, metrics=testing.noisy_loss)


class Reporting(eqf.AbstractClient):
    loss: Any
    batching: Any

    def init(self, params):
        return None

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        client = eqf.MeanGradient(self.loss, self.batching)
        message, state, metrics = client.round(broadcast, data, state, key=key)
        return message, state, {**metrics, "all/loss": eqf.Sum(1.0)}


class Recorder(eqf.AbstractLogger):
    """Keeps what it is told."""

    def __init__(self):
        self.rows, self.closed, self.started = [], False, None

    def start(self, num_rounds, first_round):
        self.started = (num_rounds, first_round)

    def log(self, round, metrics):
        self.rows.append((round, dict(metrics)))

    def close(self):
        self.closed = True


def test_the_logger_sees_the_history():
    recorder = Recorder()
    got = train(evaluation={"all": DATASET}, eval_every=2, logger=recorder)
    assert recorder.started == (5, 0)
    assert recorder.closed
    assert [number for number, _ in recorder.rows] == [1, 2, 3, 4, 5]
    for row, (_, logged) in zip(got.history, recorder.rows, strict=True):
        assert logged.items() <= row.items()
        assert set(row) - set(logged) <= {"round"}


@pytest.mark.parametrize("kind", (eqf.FedAvgM, eqf.Scaffold))
def test_resumed_in_process(tmp_path, kind):
    evaluation = {"all": DATASET}
    straight = train(make(kind), 9, evaluation=evaluation, eval_every=4)
    checkpointer = eqf.Checkpointer(tmp_path, every=2, keep=2)
    for num_rounds in (3, 6, 9, 9):
        recorder = Recorder()
        got = train(
            make(kind),
            num_rounds,
            evaluation=evaluation,
            eval_every=4,
            checkpointer=checkpointer,
            logger=recorder,
        )
    assert recorder.started == (9, 9)
    assert_same_bits(got.state, straight.state)
    # A run of 6 rounds is evaluated at its end, which one of 9 is not.
    for a, b in zip(got.history, straight.history, strict=True):
        assert b.items() <= a.items()


def test_resuming_something_else(tmp_path):
    checkpointer = eqf.Checkpointer(tmp_path, every=1)
    train(make(), 1, checkpointer=checkpointer)
    with pytest.raises(ValueError, match="another algorithm, model or roles"):
        train(make(eqf.Scaffold), 2, checkpointer=checkpointer)
    # What has the same arrays can be gone on from, if that is wished.
    prox = make(eqf.FedProx, mu=0.1)
    with pytest.raises(ValueError, match="`algorithm` FedAvg -> FedProx.*on_change"):
        train(prox, 2, checkpointer=checkpointer)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "00000001", copy / "00000001")
    forgiving = eqf.Checkpointer(copy, every=1, on_change="warn")
    with pytest.warns(UserWarning, match="FedAvg -> FedProx.*with the new settings"):
        assert len(train(prox, 2, checkpointer=forgiving).history) == 2
    model = (testing.Linear(), jnp.zeros(2))

    def loss(model, example, key):
        return testing.noisy_loss(model[0], example, key)

    algorithm = eqf.FedAvg(loss, optax.sgd(0.1), BATCHING)
    with pytest.raises(ValueError, match="another algorithm, model or roles"):
        train(algorithm, 2, checkpointer=checkpointer, model=model)


PROGRAM = """
import sys
import equifed as eqf
from tests.test_train import Recorder, train_long

class Printer(Recorder):
    def log(self, round, metrics):
        print(round, flush=True)

checkpointer = eqf.Checkpointer(sys.argv[1], every=1, keep=2)
train_long(checkpointer=checkpointer, logger=Printer())
"""


def train_long(**kwargs):
    evaluation: Any = {"evaluation": {"all": DATASET}, "eval_every": 7}
    return train(make(eqf.Scaffold), 30, **evaluation, **kwargs)


def test_killed_at_a_random_moment_and_resumed(tmp_path):
    straight = train_long()
    rng = np.random.default_rng()
    last, wait = rng.integers(1, 12), rng.uniform(0, 0.2)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path],
        cwd=pathlib.Path(__file__).parents[1],
        # As many devices as here, and the same promotion.
        env={
            **os.environ,
            "PYTHONPATH": ".",
            "JAX_NUM_CPU_DEVICES": "4",
            "JAX_NUMPY_DTYPE_PROMOTION": "strict",
            "JAX_NUMPY_RANK_PROMOTION": "raise",
        },
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= last:
                break
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    # Another process, this one, goes on from the last round that was saved, or the one
    # before.
    recorder = Recorder()
    checkpointer = eqf.Checkpointer(tmp_path, every=1, keep=2)
    resumed = train_long(checkpointer=checkpointer, logger=recorder)
    assert recorder.started is not None
    assert last - 1 <= recorder.started[1] < 30
    assert_same_bits(resumed.state, straight.state)
    assert resumed.history == straight.history, (last, wait)


def stream_loader(b=tuple(range(6))):
    import datasets

    rows = datasets.Dataset.from_dict(
        {
            "who": ["a"] * 3 + ["b"] * 2 + ["c"],
            "a": np.ones(6, np.float32),
            "b": np.array(b, np.float32),
        }
    )
    stream = eqf.data.ClientStream(rows.to_iterable_dataset(), by="who")
    return eqf.data.StreamLoader(stream, 2, BATCHING)


def test_a_stream_of_clients():
    algorithm = eqf.FedAvg(testing.quadratic_loss, optax.sgd(0.1), BATCHING)
    kwargs = {"num_rounds": 3, "key": KEY}
    got = eqf.train(algorithm, testing.Point(0.0), stream_loader(), **kwargs)
    assert got.values("clients")[1] == [2, 1, 2]
    assert got.values("loss")[1][-1] > 0


@pytest.mark.parametrize("kind", (eqf.Scaffold, eqf.FedDyn))
def test_a_stream_does_not_know_its_clients(kind: Any):
    kwargs: Any = {"alpha": 1.0} if kind is eqf.FedDyn else {}
    algorithm = kind(testing.quadratic_loss, optax.sgd(0.1), BATCHING, **kwargs)
    with pytest.raises(ValueError, match=f"`{kind.__name__}` keeps.*does not know"):
        eqf.train(algorithm, testing.Point(0.0), stream_loader(), num_rounds=1, key=KEY)


def test_rounds_refuse_a_stateful_algorithm_on_a_stream():
    algorithm = eqf.Scaffold(testing.quadratic_loss, optax.sgd(0.1), BATCHING)
    state = algorithm.init(testing.Point(0.0), num_clients=1)
    with pytest.raises(ValueError, match="`Scaffold` keeps"):
        eqf.rounds(algorithm, state, stream_loader(), num_rounds=1, key=KEY)


def test_two_devices():
    mesh = jax.make_mesh(
        (2,),
        ("clients",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:2],
    )
    one = train(make(eqf.Scaffold))
    two = train(make(eqf.Scaffold), loader=loader_of(mesh=mesh))
    np.testing.assert_allclose(two.model.weight, one.model.weight, rtol=1e-5)
    np.testing.assert_allclose(
        two.state.clients.weight, one.state.clients.weight, rtol=1e-4, atol=1e-6
    )
