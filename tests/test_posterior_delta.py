"""FedPA's message: three ways to solve, the limits, and what is sent for a Gaussian."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import equifed.posterior as eqp


METHODS = ("woodbury", "dynamic", "dense")
LENGTHS = (1, 2, 5, 20)
RHOS = (0.0, 1e-3, 0.01, 0.1, 1.0, 10.0)


def random_samples(length, sizes=((7,), (3, 4), (2, 1, 5), ()), seed=0):
    """A tree of samples whose mean is not small beside their spread."""
    keys = jr.split(jr.key(seed), 2 * len(sizes))
    return {
        f"leaf{i}": jr.normal(keys[2 * i], (length, *size))
        + jr.normal(keys[2 * i + 1], size)
        for i, size in enumerate(sizes)
    }


def flat(samples):
    leaves = [np.asarray(x, np.float64) for x in jtu.tree_leaves(samples)]
    return np.concatenate([x.reshape(len(x), -1) for x in leaves], 1)


def reference(samples, rho):
    """The definition, in ten lines of NumPy."""
    s = flat(samples)
    length, dim = s.shape
    shrink = 1 / (1 + (length - 1) * rho)
    covariance = shrink * np.eye(dim)
    if length > 1:
        covariance += (1 - shrink) * np.cov(s.T, ddof=1)
    return np.linalg.solve(covariance, s.mean(0))


def vector(tree):
    return flat(jtu.tree_map(lambda x: x[None], tree))[0]


@functools.partial(jax.jit, static_argnums=2)
def solve(samples, rho, method: Any = "woodbury"):
    return eqp.Shrinkage(rho, method=method)(samples)


def distance(x, y):
    return np.linalg.norm(x - y) / np.linalg.norm(y)


@pytest.mark.parametrize("method", METHODS)
def test_the_definition(method):
    for length in LENGTHS:
        samples = random_samples(length, seed=length)
        for rho in RHOS:
            got = vector(solve(samples, rho, method))
            assert distance(got, reference(samples, rho)) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_the_definition_in_double_precision(method):
    with jax.enable_x64(True):  # noqa: FBT003
        for length in LENGTHS:
            samples = random_samples(length, seed=length)
            for rho in RHOS:
                got = vector(solve(samples, rho, method))
                assert distance(got, reference(samples, rho)) < 1e-12


@pytest.mark.parametrize("length", (1, 4, 30))
def test_nothing_is_promoted(length):
    samples = random_samples(length)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for method in METHODS:
            solve(samples, 0.1, method)
        for covariance in ("diagonal", "dense"):
            eqp.GaussianMoments(0.1, covariance=covariance)(samples)


def test_fewer_params_than_samples():
    # The mean then lies in the span of the samples, where differences cancel.
    for sizes in (((),), ((2,), (3,))):
        samples = random_samples(300, sizes)
        for rho in (1.0, 1e4):
            got = vector(solve(samples, rho))
            assert distance(got, reference(samples, rho)) < 1e-5


def test_many_params():
    samples = random_samples(20, ((250, 300), (25_000,)), seed=3)
    for rho in (0.01, 10.0):
        one = vector(solve(samples, rho))
        other = vector(solve(samples, rho, "dynamic"))
        assert distance(one, other) < 1e-5


def test_samples_close_together_and_far_away():
    # As on a path that drifts: their spread is a hundredth of their distance.
    samples = jtu.tree_map(lambda x: 1 + 0.01 * x, random_samples(10))
    for method in METHODS:
        for rho in RHOS:
            got = vector(solve(samples, rho, method))
            assert distance(got, reference(samples, rho)) < 1e-5


# The cases that the authors' own tests use.
@pytest.mark.parametrize("length, rho", [(1, 1), (2, 1), (2, 5), (5, 1), (5, 5)])
def test_two_leaves(length, rho):
    samples = random_samples(length, ((3, 2), (2,)), seed=1)
    got = vector(solve(samples, float(rho)))
    np.testing.assert_allclose(got, reference(samples, rho), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_without_shrinkage_or_with_one_sample_it_is_the_mean(method):
    samples = random_samples(6)
    for rho, kept in ((0.0, samples), (3.0, jtu.tree_map(lambda x: x[:1], samples))):
        got = vector(solve(kept, rho, method))
        np.testing.assert_allclose(got, flat(kept).mean(0), rtol=2e-6, atol=1e-6)
    # Not only nearly: these are FedAvg's bits.
    got = eqp.Shrinkage(0.0)(samples)
    mean = jtu.tree_map(lambda x: x.mean(0), samples)
    assert all(map(np.array_equal, jtu.tree_leaves(got), jtu.tree_leaves(mean)))


def test_many_samples_and_little_shrinkage_give_the_inverse_covariance():
    root = np.array([[2.0, 0.0], [1.0, 0.5]])
    noise = np.random.default_rng(0).normal(size=(4000, 2))
    centre = np.array([1.0, -1.0])
    samples = jnp.asarray(noise @ root.T + centre, jnp.float32)
    got = eqp.Shrinkage(1e3, method="dense")(samples)
    expected = np.linalg.solve(root @ root.T, centre)
    np.testing.assert_allclose(got, expected, rtol=0.15)


def test_joint_and_by_leaf():
    samples = random_samples(5)
    apart = eqp.Shrinkage(1.0, joint=False)(samples)
    for name, leaf in samples.items():
        np.testing.assert_allclose(
            vector({name: apart[name]}), reference({name: leaf}, 1.0), rtol=1e-4
        )
    # Another estimator, and not by a little.
    joint = vector(eqp.Shrinkage(1.0)(samples))
    assert distance(vector(apart), joint) > 0.01


def test_rho_may_depend_on_the_samples():
    def spread(samples):
        return jnp.stack([x.var(0).sum() for x in jtu.tree_leaves(samples)]).sum()

    samples = random_samples(5)
    got = vector(eqp.Shrinkage(spread)(samples))
    np.testing.assert_allclose(
        got, reference(samples, float(spread(samples))), rtol=1e-4, atol=1e-6
    )


def test_nothing_of_size_d_squared_is_made():
    samples = jax.ShapeDtypeStruct((10, 100_000), jnp.float32)
    for method in ("woodbury", "dynamic"):
        jaxpr = jax.make_jaxpr(eqp.Shrinkage(0.1, method=method))(samples)
        sizes = [v.aval.size for e in jaxpr.jaxpr.eqns for v in e.outvars]
        assert max(sizes) <= 10 * 100_000


def test_it_is_swept_and_differentiated():
    samples = random_samples(4)
    rhos = jnp.array([0.0, 0.5, 2.0])
    swept = jax.vmap(lambda rho: eqp.Shrinkage(rho)(samples))(rhos)
    for i, rho in enumerate(rhos):
        one = jtu.tree_map(lambda x: x[i], swept)  # noqa: B023
        np.testing.assert_allclose(
            vector(one), reference(samples, float(rho)), rtol=1e-4, atol=1e-5
        )

    def norm(rho):
        out = eqp.Shrinkage(rho)(samples)
        return sum(jnp.sum(x**2) for x in jtu.tree_leaves(out))

    slope = jax.grad(norm)(jnp.asarray(0.5))
    numbers = [(reference(samples, r) ** 2).sum() for r in (0.49, 0.51)]
    np.testing.assert_allclose(slope, (numbers[1] - numbers[0]) / 0.02, rtol=1e-2)


def test_gaussian_moments():
    samples = random_samples(6)
    s = flat(samples)
    shrink = 1 / (1 + 5 * 0.5)
    dense = shrink * np.eye(s.shape[1]) + (1 - shrink) * np.cov(s.T)
    got = eqp.GaussianMoments(0.5, covariance="dense")(samples)
    np.testing.assert_allclose(got.covariance, dense, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vector(got.mean), s.mean(0), rtol=1e-5, atol=1e-6)
    got = eqp.GaussianMoments(0.5)(samples)
    np.testing.assert_allclose(vector(got.covariance), np.diag(dense), rtol=1e-4)


def test_errors():
    with pytest.raises(ValueError, match="`rho` must be at least 0, got -1"):
        eqp.Shrinkage(-1.0)
    with pytest.raises(ValueError, match="`rho` must be more than 0"):
        eqp.GaussianMoments(0.0)
    errors = (ValueError, TypeCheckError)
    with pytest.raises(errors, match="'lu'"):
        eqp.Shrinkage(1.0, method="lu")  # pyright: ignore[reportArgumentType]
    with pytest.raises(errors, match="'full'"):
        eqp.GaussianMoments(1.0, covariance="full")  # pyright: ignore[reportArgumentType]
    unequal = {"a": jnp.zeros((3, 2)), "b": jnp.zeros((4, 2))}
    for samples in (unequal, jnp.zeros((0, 2)), jnp.zeros(())):
        with pytest.raises(errors, match="samples"):
            eqp.Shrinkage(1.0)(samples)


def test_effective_sample_size():
    weights = np.array([0.5, 0.2, 0.2, 0.1])
    got = eqp.effective_sample_size(jnp.log(jnp.asarray(weights)) - 300)
    np.testing.assert_allclose(got, 1 / (weights**2).sum(), rtol=1e-4)
    assert abs(float(eqp.effective_sample_size(jnp.zeros(7))) - 7) < 1e-4
    one = eqp.effective_sample_size(jnp.array([0.0, -1e4, -1e5]))
    assert abs(float(one) - 1) < 1e-6
    size_and_grad = jax.jit(jax.value_and_grad(eqp.effective_sample_size))
    # Energies of many examples: large, and far from 0 compared with their differences.
    for offset in (0, -1e4, -1e5, -1e6, -1e7, 1e7):
        logs = (4 * np.sin(np.arange(50)) + offset).astype(np.float32)
        weights = np.exp(logs.astype(np.float64) - logs.max())
        expected = weights.sum() ** 2 / (weights**2).sum()
        assert 1.5 < expected < 45
        got, gradient = size_and_grad(jnp.asarray(logs))
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    # The gradient, by the quotient rule.
    shares = weights / weights.sum()
    by_hand = 2 * expected * (shares - expected * shares**2)
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-3, atol=1e-4)
    # Samples without weight do not count; where there are no others, the size is 0.
    got, gradient = size_and_grad(jnp.array([-jnp.inf, -1e6, -1e6]))
    assert got == 2
    assert np.isfinite(gradient).all()
    for none in (jnp.full(3, -jnp.inf), jnp.zeros(0)):
        got, gradient = size_and_grad(none)
        assert got == 0
        assert (np.asarray(gradient) == 0).all()
    assert np.isnan(size_and_grad(jnp.array([0.0, 0.0, jnp.nan]))[0])
