"""FedPA as a family: what it has in common with FedAvg, and where it parts from it."""

import functools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.posterior as eqp
from equifed import testing
from equifed._cohort import NO_CLIENT
from equifed.objectives import FederatedProblem, LeastSquares

from .collect import Collect
from .shared import line_loss


DATASET = testing.ragged_clients((5, 0, 1, 12, 7))
MOMENTUM = optax.sgd(0.05, momentum=0.9)
SERVER = optax.sgd(0.5, momentum=0.9)
STEPS = eqf.data.Steps(6, batch_size=4)
EPOCHS = eqf.data.Epochs(4, batch_size=4)
# Where two programs must draw the same.
NOISY: Any = {"loss": testing.noisy_loss}


def run(algorithm, num_rounds=3, dataset=DATASET, model=None, absent=()):
    """The models and the metrics of a few rounds, without those who are absent."""
    loader = eqf.data.Loader(dataset, eqf.data.AllClients(), algorithm.batching)
    model = testing.Linear() if model is None else model
    state = algorithm.init(model, num_clients=dataset.num_clients)
    models, seen = [], []
    for r in range(num_rounds):
        cohort = loader(r)
        if absent:
            index = np.asarray(cohort.index)
            index = np.where(np.isin(index, absent), NO_CLIENT, index)
            cohort = eqx.tree_at(lambda c: c.index, cohort, jnp.asarray(index))
        state, metrics = algorithm.round(state, cohort, key=jr.key(1))
        models.append(state.model)
        seen.append(metrics)
    return models, seen


def fedavg(batching, *, loss=line_loss, **kwargs):
    return eqf.FedAvg(loss, MOMENTUM, batching, server_optim=SERVER, **kwargs)


def fedpa(batching, sampler=None, *, loss=line_loss, **kwargs):
    sampler = eqp.IASG(MOMENTUM) if sampler is None else sampler
    if "estimator" not in kwargs:
        kwargs = {"rho": 2.0, **kwargs}
    kwargs = {"server_optim": SERVER, **kwargs}
    return eqf.FedPA(loss, sampler, batching, **kwargs)


def least_squares(sizes, dim):
    """Clients of so many examples, with features and targets of their own."""
    rng = np.random.default_rng(0)
    return FederatedProblem(
        [LeastSquares(rng.normal(size=(n, dim)), rng.normal(size=n)) for n in sizes]
    )


def rows(problem):
    """The features and the targets of the clients."""
    examples = [o.examples() for o in problem.objectives]
    return [(e["x"].astype(float), e["y"].astype(float)) for e in examples]


def assert_same(models, others, tolerance=0.0):
    for one, other in zip(models, others, strict=True):
        for x, y in zip(jtu.tree_leaves(one), jtu.tree_leaves(other), strict=True):
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def messages(algorithm, block_size=1):
    """What clients send in a round: the sums of two programs may differ in their last
    bits, by how the compiler fuses them, but this may not."""
    loader = eqf.data.Loader(DATASET, eqf.data.AllClients(), algorithm.batching)
    state = algorithm.init(testing.Linear(), num_clients=DATASET.num_clients)
    executor = eqf.Executor(block_size=block_size)
    state, _ = algorithm.round(state, loader(0), key=jr.key(1), executor=executor)
    payload, _ = state.aggregator
    return [payload]


SENT: Any = {**NOISY, "aggregator": Collect(DATASET.num_clients)}


@functools.cache
def sent_by_fedavg(batching, block_size=1):
    return messages(fedavg(batching, **SENT), block_size)


@pytest.mark.exact
@pytest.mark.parametrize("block_size", (1, 4))
def test_one_sample_of_one_iterate_is_fedavg_to_the_bit(block_size):
    sampler = eqp.IASG(MOMENTUM, burnin=5)
    got = messages(fedpa(STEPS, sampler, **SENT), block_size)
    assert_same(got, sent_by_fedavg(STEPS, block_size))


@pytest.mark.exact
@pytest.mark.parametrize(("batching", "burnin"), [(STEPS, 2), (EPOCHS, 0)])
def test_burn_in_rounds_are_fedavg_to_the_bit(batching, burnin):
    sampler = eqp.IASG(MOMENTUM, burnin=burnin)
    got = messages(fedpa(batching, sampler, start_round=2, **SENT))
    assert_same(got, sent_by_fedavg(batching))


def test_one_sample_of_one_iterate_is_fedavg():
    sampler = eqp.IASG(MOMENTUM, burnin=5)
    assert sampler.count(STEPS) == 1
    models, _ = run(fedpa(STEPS, sampler, **NOISY))
    assert_same(models, models_of_fedavg(STEPS), 1e-6)


@functools.cache
def models_of_fedavg(batching):
    return run(fedavg(batching, **NOISY))[0]


@pytest.mark.parametrize("batching", (STEPS, EPOCHS), ids=("steps", "epochs"))
@pytest.mark.parametrize("burnin", (0, 2))
def test_burn_in_rounds_are_fedavg(batching, burnin):
    sampler = eqp.IASG(MOMENTUM, burnin=burnin)
    models, metrics = run(fedpa(batching, sampler, start_round=2, **NOISY))
    expected = models_of_fedavg(batching)
    assert_same(models[:2], expected[:2], 1e-6)
    assert [float(m["correction_norm"]) > 0 for m in metrics] == [False, False, True]
    difference = models[2].weight - expected[2].weight
    assert float(jnp.abs(difference).max()) > 1e-3


def test_a_rejected_round_does_not_count():
    late = fedpa(STEPS, start_round=1)
    loader = eqf.data.Loader(DATASET, eqf.data.AllClients(), STEPS)
    state = late.init(testing.Linear(), num_clients=DATASET.num_clients)
    nothing = eqx.tree_at(lambda c: c.stop, loader(0), jnp.copy(loader(0).start))
    state, metrics = late.round(state, nothing, key=jr.key(0))
    assert int(metrics["clients"]) == 0
    state, metrics = late.round(state, loader(0), key=jr.key(0))
    assert np.isnan(metrics["correction_norm"])
    _, metrics = late.round(state, loader(1), key=jr.key(0))
    assert float(metrics["correction_norm"]) > 0


SAMPLERS = {
    "iasg": (eqp.IASG(MOMENTUM, burnin=1), EPOCHS),
    "iasg-chains": (eqp.IASG(MOMENTUM, chains=2), STEPS),
    "sgld": (eqp.SGLD(0.02, burnin=2), STEPS),
    "exact": (eqp.ExactGaussian(5), eqf.data.Epochs(1, batch_size=4)),
    "laplace": (eqp.Laplace(MOMENTUM, 5), EPOCHS),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_without_rho_the_message_is_the_mean_of_the_samples(name):
    sampler, batching = SAMPLERS[name]
    # Enough examples for an exact posterior of the four params.
    loader = eqf.data.Loader(
        testing.ragged_clients((9, 9)), eqf.data.AllClients(), batching
    )
    client = fedpa(batching, sampler, rho=0.0, **NOISY).client

    @eqx.filter_jit
    def both(sent, data, key):
        message, _, metrics = client.round(sent, data, None, key=key)
        samples, _ = sampler.sample(testing.noisy_loss, sent, data, batching, key=key)
        return message, metrics["correction_norm"].compute(), samples.values

    sent = eqf.Broadcast.of(testing.Linear())
    for slot in range(2):
        data = loader(0).client(slot)
        message, correction, values = both(sent, data, jr.key(slot))
        mean = jtu.tree_map(lambda x: np.asarray(x).mean(0), values)
        assert_same([message.payload], [mean], 1e-6)
        assert int(message.weight) == 9
        assert float(correction) < 1e-6


def test_the_three_methods_agree_in_rounds():
    def make(method):
        return fedpa(EPOCHS, estimator=eqp.Shrinkage(2.0, method=method))

    reference, _ = run(make("dense"))
    for method in ("woodbury", "dynamic"):
        assert_same(run(make(method))[0], reference, 1e-4)


def test_one_trace_for_all_rho_and_no_trace_for_later_rounds():
    traces = 0

    def loss(model, example, key):
        nonlocal traces
        traces += 1
        return line_loss(model, example, key)

    counts = []
    for rho in (0.1, 0.2):
        algorithm = eqf.FedPA(loss, eqp.IASG(optax.sgd(rho)), EPOCHS, rho=rho)
        run(algorithm)
        counts.append(traces)
    assert counts[0] == counts[1]


def test_a_diverged_client_weighs_nothing():
    bad = 3
    columns = {name: dict(DATASET[name]) for name in DATASET.client_ids}
    client = columns[DATASET.client_ids[bad]]
    client["x"] = 1e20 * client["x"]
    diverging = eqf.data.FederatedDataset.from_mapping(columns)
    for aggregator in (eqf.WeightedMean(), eqf.UniformMean(), eqf.Median()):
        algorithm = fedpa(EPOCHS, aggregator=aggregator)
        models, metrics = run(algorithm, dataset=diverging)
        others, _ = run(algorithm, absent=(bad,))
        assert [int(m["nonfinite"]) for m in metrics] == [1, 1, 1]
        assert [int(m["clients"]) for m in metrics] == [3, 3, 3]
        assert all(np.isfinite(float(m["correction_norm"])) for m in metrics)
        assert_same(models, others, 1e-6)


def test_sums_are_kept_wide_and_the_model_keeps_its_dtype():
    model = jtu.tree_map(lambda x: x.astype(jnp.bfloat16), testing.Linear())
    models, _ = run(fedpa(EPOCHS), model=model)
    assert models[-1].weight.dtype == jnp.bfloat16
    wide, _ = run(fedpa(EPOCHS))
    np.testing.assert_allclose(
        np.asarray(models[0].weight, np.float32), wide[0].weight, rtol=0.1, atol=0.03
    )


def test_shrinkage_instead_of_rho():
    joint, _ = run(fedpa(EPOCHS, estimator=eqp.Shrinkage(2.0)), 1)
    assert_same(joint, run(fedpa(EPOCHS, rho=2.0), 1)[0])
    by_leaf, _ = run(fedpa(EPOCHS, estimator=eqp.Shrinkage(2.0, joint=False)), 1)
    one, other = (np.asarray(models[0].weight) for models in (by_leaf, joint))
    assert np.abs(one - other).max() > 1e-3
    with pytest.raises(ValueError, match="`rho` must be at least 0, got -0.5"):
        fedpa(EPOCHS, rho=-0.5)
    with pytest.raises(ValueError, match="`start_round` must be at least 0, got -1"):
        fedpa(EPOCHS, start_round=-1)


def test_minibatch_sgd_from_the_same_parts():
    """The mean of K gradients at the server's model, and one step with it."""
    problem = least_squares((12, 12, 12), 4)
    algorithm = eqf.FedSGD(
        problem.loss, optax.sgd(0.1), eqf.data.Steps(3, batch_size=4)
    )
    model = jnp.asarray(np.zeros(4, np.float32))
    models, _ = run(algorithm, 1, dataset=problem.dataset(), model=model)
    # Three batches of four are all twelve examples.
    gradients = [-x.T @ y / 12 for x, y in rows(problem)]
    np.testing.assert_allclose(models[0], -0.1 * sum(gradients) / 3, rtol=1e-4)


def test_the_exact_delta_is_the_gradient():
    problem = least_squares((50,), 3)
    whole = eqf.data.Epochs(1, batch_size=25)
    start = np.ones(3, np.float32)
    cohort = eqf.data.Loader(problem.dataset(), eqf.data.AllClients(), whole)(0)
    round_of = eqx.filter_jit(eqf.MeanGradient(problem.loss, whole).round)
    sent = eqf.Broadcast.of(jnp.asarray(start))
    message, _, _ = round_of(sent, cohort.client(0), None, key=jr.key(0))
    ((x, y),) = rows(problem)
    precision = x.T @ x / 50
    mean = np.linalg.solve(precision, x.T @ y / 50)
    np.testing.assert_allclose(
        message.payload, precision @ (mean - start), rtol=1e-4, atol=1e-5
    )


def test_ep_errors():
    sgd = optax.sgd(0.1)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"damping": 0.0}, "`damping` must be more than 0"),
        ({"damping": 1.5}, "`damping` must be at most 1, got 1.5"),
        ({"prior_precision": 0.0}, "`prior_precision` must be more than 0"),
    ]
    for kwargs, match in cases:
        with pytest.raises(ValueError, match=match):
            eqf.FedEP(testing.noisy_loss, sgd, EPOCHS, **kwargs)


def test_the_first_round_of_ep_is_federated_laplace():
    """Each client's Laplace approximation, multiplied with the prior."""
    problem = least_squares((23, 37), 1)
    algorithm = eqf.FedEP(
        problem.loss,
        optax.sgd(0.1),
        eqf.data.Epochs(300, batch_size=40),
        prior_precision=4.0,
        curvature="hessian",
    )
    start = jnp.array([0.5])
    models, _ = run(algorithm, 1, dataset=problem.dataset(), model=start)
    modes = [(x[:, 0] @ y) / (x**2).sum() for x, y in rows(problem)]
    precision = [(x**2).sum() for x, _ in rows(problem)]
    mean = (4.0 * 0.5 + np.dot(precision, modes)) / (4.0 + sum(precision))
    np.testing.assert_allclose(models[0], [mean], rtol=1e-3)
