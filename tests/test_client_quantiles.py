"""Quantiles over clients in the history are those of an evaluation of each client."""

from typing import Any

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


def test_tails_are_logged_by_examples():
    of = eqf.ClientQuantiles(DATASET, (0.5,), tail=0.25, by="examples")
    assert of.labels == ("p50", "low25", "high25")
    got = train(of)
    each = eqf.evaluate(got.model, DATASET, metrics, per_client=True)
    row = got.history[-1]
    ends: Any = ("low", "high")
    for end in ends:
        tail = each.tail("error", 0.25, end=end, by="examples")
        np.testing.assert_allclose(row[f"test/error/{end}25"], tail, rtol=1e-5)
    (median,) = each.quantiles("error", (0.5,), by="examples").values()
    np.testing.assert_allclose(row["test/error/p50"], median, rtol=1e-5)


def clients_of(values, sizes):
    values, names = np.asarray(values, float), [str(i) for i in range(len(sizes))]
    return eqf.ClientMetrics({"x": values}, np.asarray(sizes), names)


def test_clients_are_ranked():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 30):
        values, sizes = rng.normal(size=size), rng.integers(1, 6, size)
        clients = clients_of([*values, np.nan], [*sizes, 3])
        ways: Any = (("clients", np.ones(size, int)), ("examples", sizes))
        for by, counts in ways:
            every = np.sort(np.repeat(values, counts))
            q = (0.0, 0.1, 1 / 3, 0.5, 0.77, 1.0)
            found = clients.quantiles("x", q, by=by)
            np.testing.assert_allclose([*found.values()], np.quantile(every, q))
            np.testing.assert_allclose(clients.mean("x", by=by), every.mean())
            # Of each in a hundred parts, a tenth is a whole number of parts.
            parts = np.repeat(every, 100)
            low, high = (parts[: 10 * len(every)], parts[-10 * len(every) :])
            tails = [clients.tail("x", by=by), clients.tail("x", end="high", by=by)]
            np.testing.assert_allclose(tails, [low.mean(), high.mean()])
            np.testing.assert_allclose(clients.tail("x", 1.0, by=by), every.mean())


def test_ranks_of_what_is_not_finite_or_not_there():
    nobody = clients_of([np.nan, np.nan], [0, 3])
    found = [nobody.tail("x"), nobody.mean("x"), nobody.quantiles("x")[0.5]]
    assert np.isnan(found).all()
    diverged = clients_of([1.0, np.inf, np.inf, 2.0], [1, 1, 1, 1])
    assert diverged.tail("x", 0.5, end="low") == 1.5
    assert diverged.tail("x", 0.5, end="high") == np.inf
    assert diverged.quantiles("x", (0.0, 0.5, 1.0)) == {
        0.0: 1.0,
        0.5: np.inf,
        1: np.inf,
    }


class Some(eqf.data.AbstractSampler):
    """Two clients, one of them twice; then the one that has no example."""

    seed: int = 0

    def __call__(self, round, num_clients):
        return np.array([[4, 2, 4], [1, 1, 1]][round % 2])

    def max_clients(self, num_clients):
        return 3


def test_a_sample_of_the_clients():
    sampler = eqf.data.UniformSampler(3, seed=1)  # the loader's
    solution = eqf.train(
        *(ALGORITHM, testing.Linear()),
        eqf.data.Loader(DATASET, sampler, BATCHING),
        num_rounds=4,
        key=jr.key(0),
        evaluation={
            "trained": eqf.SampledClients(DATASET, sampler),
            "some": eqf.SampledClients(DATASET, Some()),
        },
        metrics=metrics,
        eval_every=1,
    )
    state = ALGORITHM.init(testing.Linear(), num_clients=DATASET.num_clients)
    loader = eqf.data.Loader(DATASET, sampler, BATCHING)
    going = eqf.rounds(ALGORITHM, state, loader, num_rounds=4, key=jr.key(0))
    for round, (row, (state, _)) in enumerate(
        zip(solution.history, going, strict=True)
    ):
        drawn = {"trained": sampler(round, 6), "some": np.array([2, 4])}
        for name, clients in drawn.items():
            some = eqf.evaluate(state.model, DATASET.select(clients), metrics)
            for metric, value in some.items():
                if name == "some" and round % 2:  # the empty client
                    value = [0.0, 0.0] if metric == "two" else np.nan
                np.testing.assert_allclose(
                    row[f"{name}/{metric}"], value, rtol=1e-5, err_msg=f"{round} {name}"
                )


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
