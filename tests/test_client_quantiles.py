"""Quantiles over clients in the history are those of an evaluation of each client."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing


BATCHING = eqf.data.Epochs(1, batch_size=4)
DATASET = testing.ragged_clients((5, 0, 3, 8, 6, 1))
ALGORITHM = eqf.FedAvg(testing.noisy_loss, optax.sgd(0.1), BATCHING)


def metrics(model, example, key):
    error = model.weight @ example["x"] + model.bias - example["y"]
    return {"far": jnp.abs(error) > 1, "error": error, "two": eqf.Sum(jnp.ones(2))}


def train(of, **kwargs):
    sampler = eqf.data.UniformSampler(3, seed=1)
    loader = eqf.data.Loader(DATASET, sampler, BATCHING, mesh=kwargs.pop("mesh", None))
    return eqf.train(
        *(ALGORITHM, testing.Linear(), loader),
        num_rounds=4,
        key=jr.key(0),
        evaluation={"test": of},
        metrics=metrics,
        eval_every=4,
        **kwargs,
    )


@pytest.mark.parametrize("num_devices", [None, 2])
def test_quantiles_are_logged(num_devices, tmp_path):
    mesh = None if num_devices is None else jax.make_mesh((num_devices,), ("clients",))
    logger = eqf.JSONLines(tmp_path / "log.jsonl")
    got = train(eqf.ClientQuantiles(DATASET), mesh=mesh, logger=logger)
    plain = train(DATASET, mesh=mesh).history[-1]
    row = got.history[-1]
    for name, value in plain.items():
        np.testing.assert_allclose(row[name], value, rtol=1e-5)
    each = eqf.evaluate(got.model, DATASET, metrics, per_client=True)
    labels = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}
    for name in ("far", "error"):
        found = each.quantiles(name, tuple(labels.values()))
        for label, q in labels.items():
            np.testing.assert_allclose(
                row[f"test/{name}/{label}"], found[q], rtol=1e-5, atol=1e-7
            )
    assert len(row) == len(plain) + 2 * len(labels)
    assert "test/far/p90" not in got.history[0]
    assert "test/far/p90" in (tmp_path / "log.jsonl").read_text()


def test_quantiles_of_ones_own_end_a_training():
    of = eqf.ClientQuantiles(DATASET, (0.25, 0.005))
    assert of.labels == ("p25", "p0.5")
    got = train(of, stop=eqf.Target("test/error/p25", 1e9, mode="min"))
    assert got.result == eqf.RESULTS.stopped
    assert got.values("test/error/p0.5")[0] == [4]


def test_one_pass(monkeypatch):
    passes = []
    fold = eqf._evaluate.evaluator.over_rows
    monkeypatch.setattr(
        eqf._evaluate.evaluator, "over_rows", lambda *a: passes.append(1) or fold(*a)
    )
    train(eqf.ClientQuantiles(DATASET))
    assert len(passes) == 1


def test_a_name_that_would_be_taken():
    def taken(model, example, key):
        return {"a": model.bias, "a/p10": model.bias}

    sampler = eqf.data.UniformSampler(3, seed=1)
    with pytest.raises(ValueError, match="'test/a/p10'"):
        eqf.train(
            *(ALGORITHM, testing.Linear()),
            eqf.data.Loader(DATASET, sampler, BATCHING),
            num_rounds=4,
            key=jr.key(0),
            evaluation={"test": eqf.ClientQuantiles(DATASET)},
            metrics=taken,
        )
