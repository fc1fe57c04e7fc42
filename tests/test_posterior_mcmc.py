"""Hamiltonian chains for params of any dtype; their moments are checked with those of
the other samplers."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equifed as eqf
import equifed.posterior as eqp
from equifed import testing
from equifed.objectives import FederatedProblem, LeastSquares


WHOLE = eqf.data.Epochs(1, batch_size=4)
HALF, SINGLE = jnp.bfloat16, jnp.float32
LOADER = eqf.data.Loader(testing.ragged_clients((5, 9)), eqf.data.AllClients(), WHOLE)


def model_of(weight_dtype, bias_dtype):
    # These numbers are the same in every dtype.
    return eqx.tree_at(
        lambda m: (m.weight, m.bias),
        testing.Linear(),
        (
            jnp.asarray(np.array([-0.5, 0, 0.5], weight_dtype)),
            jnp.asarray(np.array(0.125, bias_dtype)),
        ),
    )


def loss_without_noise(model, example, key):
    del key
    x, y = (example[name].astype(model.bias.dtype) for name in ("x", "y"))
    return (model.weight.astype(x.dtype) @ x + model.bias - y) ** 2 / 2


@pytest.mark.parametrize(
    "dtypes, x64, rtol",
    [
        ((HALF, HALF), False, 0.05),
        ((jnp.float16, SINGLE), False, 0.05),
        ((SINGLE, SINGLE), True, 1e-4),
    ],
    ids=["half", "mixed", "single-x64"],
)
def test_params_of_any_dtype(dtypes, x64, rtol):
    with jax.enable_x64(True) if x64 else contextlib.nullcontext():  # noqa: FBT003
        sampler = eqp.HMC(3, num_warmup=5)
        algorithm = eqf.FedPA(loss_without_noise, sampler, WHOLE, rho=0.1)
        start = model_of(*dtypes)
        data = LOADER(0).client(0)
        round_of = eqx.filter_jit(algorithm.client.round)
        sent = eqf.Broadcast.of(start)
        message, _, _ = round_of(sent, data, None, key=jr.key(0))
        assert float(message.weight) > 0  # finite
        for name, dtype in zip(("weight", "bias"), dtypes, strict=True):
            change = getattr(message.payload, name)
            assert change.dtype == dtype
            change = np.asarray(change, np.float64)
            assert np.isfinite(change).all()
            assert (change != 0).any()

        # Without a warm-up a chain is that of wide params, but for rounding.
        sampler = eqp.HMC(3, num_warmup=0)
        sample = eqx.filter_jit(sampler.sample)
        widest = jnp.result_type(float)
        got, expected = (
            sample(loss_without_noise, sent, data, WHOLE, key=jr.key(1))[0]
            for sent in map(eqf.Broadcast.of, (start, model_of(widest, widest)))
        )
        for name, dtype in zip(("weight", "bias"), dtypes, strict=True):
            values, last = getattr(got.values, name), getattr(got.last, name)
            assert last.dtype == dtype
            assert values.dtype == SINGLE
            wide = np.asarray(getattr(expected.values, name))
            np.testing.assert_allclose(values, wide, rtol=rtol, atol=rtol)
            assert np.abs(wide).max() > 4 * rtol


@pytest.mark.parametrize("sampler", [eqp.HMC, eqp.NUTS])
def test_num_warmup_is_a_count(sampler):
    with pytest.raises(TypeError, match="`num_warmup` must be an integer, got True"):
        sampler(3, num_warmup=True)
    with pytest.raises(ValueError, match="`num_warmup` must be at least 0, got -1"):
        sampler(3, num_warmup=-1)


@pytest.mark.parametrize("name", ["acceptance", "divergences"])
def test_metrics_of_the_loss_are_not_overwritten(name):
    def loss(model, example, key):
        value, _ = testing.noisy_loss(model, example, key)
        return value, {name: value}

    sampler = eqp.HMC(1, num_integration_steps=1, num_warmup=0)
    algorithm = eqf.FedPA(loss, sampler, WHOLE)
    state = algorithm.init(testing.Linear(), num_clients=2)
    with pytest.raises(ValueError, match=f"'{name}'"):
        algorithm.round(state, LOADER(0), key=jr.key(0))


def test_no_direction_is_too_narrow():
    # With trajectories of one length the smallest of these is 0.01.
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 50, 5)) * np.sqrt(np.linspace(1, 5, 5))
    problem = FederatedProblem([LeastSquares(x, x.sum(1)) for x in rows])
    cohort = eqf.data.Loader(problem.dataset(), eqf.data.AllClients(), WHOLE)(0)
    sent = eqf.Broadcast.of(jnp.asarray(np.zeros(5, np.float32)))
    draw = eqx.filter_jit(
        lambda data: eqp.HMC(100).sample(problem.loss, sent, data, WHOLE, key=jr.key(3))
    )
    for slot in range(2):
        samples, _ = draw(cohort.client(slot))
        x = rows[int(cohort.index[0, slot])]
        root = np.linalg.cholesky(x.T @ x / 50)
        white = np.asarray(samples.values) @ root
        assert np.linalg.eigvalsh(np.cov(white.T))[0] > 0.25
