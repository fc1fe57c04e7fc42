"""A sweep is the same trainings one by one, in fewer programs."""

# Fields may be given as properties.
# pyright: reportAssignmentType=false, reportCallIssue=false

import gc
import importlib
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing

from .shared import compilations, line_loss


BATCHING = eqf.data.Epochs(1, batch_size=4)
DATASET = testing.ragged_clients((5, 0, 3, 8, 6))
KEYS = jr.split(jr.key(0), 3)


def loader_of(**kwargs):
    sampler = eqf.data.UniformSampler(3, seed=1)
    return eqf.data.Loader(DATASET, sampler, BATCHING, **kwargs)


def start(key):
    shape = testing.Linear()
    return eqx.tree_at(lambda m: m.weight, shape, jr.normal(key, shape.weight.shape))


def algorithms(loss=testing.noisy_loss):
    return {
        "0.1": eqf.FedAvg(loss, optax.sgd(0.1), BATCHING),
        "0.3": eqf.FedAvg(loss, optax.sgd(0.3), BATCHING),
        "Scaffold": eqf.Scaffold(loss, optax.sgd(0.1), BATCHING),
    }


def sweep(some, **kwargs):
    defaults = {"num_rounds": 5, "keys": KEYS, "evaluation": {"all": DATASET}}
    return eqf.sweep(
        some, start, loader_of(), **{**defaults, "eval_every": 2, **kwargs}
    )


def assert_as_trained(got, algorithm, key, num_rounds=5):
    want = eqf.train(
        *(algorithm, start(key), loader_of()),
        num_rounds=num_rounds,
        key=key,
        evaluation={"all": DATASET},
        eval_every=2,
    )
    assert got.result == want.result
    assert len(got.history) == len(want.history)
    for row, expected in zip(got.history, want.history, strict=True):
        assert list(row) == list(expected)
        for name, value in expected.items():
            assert type(row[name]) is type(value)
            np.testing.assert_allclose(row[name], value, rtol=1e-4, atol=1e-5)
    for part in ("model", "state"):
        one, other = getattr(got, part), getattr(want, part)
        assert jax.tree.structure(one) == jax.tree.structure(other)
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_as_one_training_after_another():
    some = algorithms()
    got = sweep(some)
    assert list(got) == list(some)
    for label, algorithm in some.items():
        for solution, key in zip(got[label], KEYS, strict=True):
            assert_as_trained(solution, algorithm, key)


def test_numbers_alone_are_one_program():
    counts = []
    for rates in ([0.1], [0.1, 0.2, 0.3, 0.4]):
        rounds = []

        def loss(model, example, key):
            # While a round of several runs is traced, and not while one is looked at.
            rounds.append(type(key).__name__ == "BatchTracer")  # noqa: B023
            return line_loss(model, example, key)

        some = {str(r): eqf.FedAvg(loss, optax.sgd(r), BATCHING) for r in rates}
        sweep(some, evaluation=None)
        assert rounds
        counts.append(sum(rounds))
    assert counts[0] == counts[1] > 0


class Weighted(eqx.Module):
    """A loss with a number of its own."""

    weight: jax.Array

    def __call__(self, model, example, key):
        value, metrics = testing.noisy_loss(model, example, key)
        return self.weight * value, metrics


def test_each_run_is_evaluated_by_its_own_loss():
    some = {
        str(w): eqf.FedAvg(Weighted(jnp.array(w)), optax.sgd(0.1), BATCHING)
        for w in (1.0, 3.0)
    }
    got = sweep(some)
    for label, algorithm in some.items():
        assert_as_trained(got[label][0], algorithm, KEYS[0])


def test_the_same_sweep_is_not_compiled_again():
    some = algorithms()
    sweep(some, num_rounds=1)
    with compilations() as compiled:
        sweep(some, num_rounds=1)
    assert compiled == []


def test_a_loss_goes_and_its_programs_with_it():
    def loss(model, example, key):
        return line_loss(model, example, key)

    gone = weakref.ref(loss)
    sweep({"a": eqf.FedAvg(loss, optax.sgd(0.1), BATCHING)}, num_rounds=1)
    del loss
    gc.collect()
    assert gone() is None


def test_a_clients_own_metric_overwrites_none():
    class Reports(eqf.AbstractClient):
        client: eqf.LocalSGD
        loss = property(lambda self: self.client.loss)
        batching = property(lambda self: self.client.batching)

        def init(self, params):
            return self.client.init(params)

        def payload(self, params):
            return self.client.payload(params)

        def round(self, broadcast, data, state, *, key):
            message, state, metrics = self.client.round(broadcast, data, state, key=key)
            return message, state, {**metrics, "all/loss": metrics["loss"]}

    client = Reports(eqf.LocalSGD(testing.noisy_loss, optax.sgd(0.1), BATCHING))
    server = eqf.OptaxServer(optax.sgd(1.0))
    with pytest.raises(ValueError, match="Two metrics would be called 'all/loss'"):
        sweep({"a": eqf.Algorithm(client, eqf.WeightedMean(), server)})


def test_other_structure_is_another_program(monkeypatch):
    module = importlib.import_module("equifed._training.sweep")
    sizes, train = [], module._train
    monkeypatch.setattr(
        module, "_train", lambda runs, *a: sizes.append(len(runs)) or train(runs, *a)
    )
    sweep(algorithms(), evaluation=None)
    assert sizes == [2 * len(KEYS), len(KEYS)]


@pytest.mark.filterwarnings("ignore:The server model became non-finite")
def test_one_that_diverges_ends_there():
    def loss(model, example, key):
        return jnp.exp(jnp.sum(model.weight**2)) * example["y"] ** 2

    some = {str(r): eqf.FedSGD(loss, optax.sgd(r), BATCHING) for r in (1e-9, 1e30)}
    got = sweep(some, evaluation=None)
    for label, algorithm in some.items():
        for solution, key in zip(got[label], KEYS, strict=True):
            want = eqf.train(
                *(algorithm, start(key), loader_of()), num_rounds=5, key=key
            )
            assert solution.result == want.result
            assert len(solution.history) == len(want.history)
            assert int(solution.state.round) == int(want.state.round)
    assert {len(s.history) for s in got["1e+30"]} != {5}


def test_drawn_without_more_ado():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    ax = eqf.plot.learning_curves(sweep(algorithms()), "all/loss")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["0.1", "0.3", "Scaffold"]
    assert len(ax.collections) == 3  # bands over the seeds
    importlib.import_module("matplotlib.pyplot").close("all")


def test_old_style_keys():
    keys = [jr.PRNGKey(0), jr.PRNGKey(1)]
    some = {"a": algorithms()["0.1"]}
    got = sweep(some, keys=jnp.stack(keys), num_rounds=2)
    assert len(got["a"]) == 2
    assert_as_trained(got["a"][1], some["a"], keys[1], num_rounds=2)
