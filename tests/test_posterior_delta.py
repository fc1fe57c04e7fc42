"""FedPA's message: three ways to solve, the limits, and what is sent for a Gaussian."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import equifed.posterior as eqp


METHODS = ("woodbury", "dynamic", "dense")
LENGTHS = (1, 2, 5, 20)
RHOS = (0.0, 1e-3, 0.01, 0.1, 1.0, 10.0)


def random_samples(
    length, sizes=((7,), (3, 4), (2, 1, 5), ()), seed=0, dtype: type = np.float32
):
    """A tree of samples whose mean is not small beside their spread."""
    rng = np.random.default_rng(seed)
    return {
        f"leaf{i}": (rng.normal(size=(length, *size)) + rng.normal(size=size)).astype(
            dtype
        )
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
        for length in (2, 20):
            samples = random_samples(length, seed=length, dtype=np.float64)
            for rho in RHOS:
                got = vector(solve(samples, rho, method))
                assert distance(got, reference(samples, rho)) < 1e-12


@pytest.mark.parametrize("length", (1, 4, 30))
def test_nothing_is_promoted(length):
    samples = random_samples(length)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for method in METHODS:
            jax.eval_shape(eqp.Shrinkage(0.1, method=method), samples)
        for covariance in ("diagonal", "dense"):
            moments = eqp.GaussianMoments(0.1, covariance=covariance)
            jax.eval_shape(moments, samples)


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
        # 2e-5 with JAX 0.10.0, which sums in another order.
        assert distance(one, other) < 3e-5


def test_samples_close_together_and_far_away():
    # As on a path that drifts: their spread is a hundredth of their distance.
    samples = jtu.tree_map(lambda x: 1 + 0.01 * x, random_samples(20))
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
    samples = random_samples(5)
    for rho, kept in ((0.0, samples), (3.0, random_samples(1))):
        got = vector(solve(kept, rho, method))
        np.testing.assert_allclose(got, flat(kept).mean(0), rtol=2e-6, atol=1e-6)


@jax.jit
def mean(samples):
    return jtu.tree_map(lambda x: x.mean(0), samples)


def test_without_shrinkage_it_has_fedavgs_bits():
    samples = random_samples(5)
    pair = solve(samples, 0.0), mean(samples)
    assert all(map(np.array_equal, *map(jtu.tree_leaves, pair)))


def test_many_samples_and_little_shrinkage_give_the_inverse_covariance():
    root = np.array([[2.0, 0.0], [1.0, 0.5]])
    noise = np.random.default_rng(0).normal(size=(4000, 2))
    centre = np.array([1.0, -1.0])
    samples = (noise @ root.T + centre).astype(np.float32)
    got = solve(samples, 1e3, "dense")
    expected = np.linalg.solve(root @ root.T, centre)
    np.testing.assert_allclose(got, expected, rtol=0.15)


def test_joint_and_by_leaf():
    samples = random_samples(5)
    apart = jax.jit(lambda s: eqp.Shrinkage(1.0, joint=False)(s))(samples)
    for name, leaf in samples.items():
        np.testing.assert_allclose(
            vector({name: apart[name]}), reference({name: leaf}, 1.0), rtol=1e-4
        )
    # Another estimator, and not by a little.
    joint = vector(solve(samples, 1.0))
    assert distance(vector(apart), joint) > 0.01


def test_rho_may_depend_on_the_samples():
    def spread(samples):
        return jnp.stack([x.var(0).sum() for x in jtu.tree_leaves(samples)]).sum()

    samples = random_samples(5)
    got = vector(jax.jit(eqp.Shrinkage(spread))(samples))
    rho = sum(x.var(0).sum() for x in samples.values())
    np.testing.assert_allclose(got, reference(samples, rho), rtol=1e-4, atol=1e-6)


def test_nothing_of_size_d_squared_is_made():
    samples = jax.ShapeDtypeStruct((10, 100_000), jnp.float32)
    for method in ("woodbury", "dynamic"):
        jaxpr = jax.make_jaxpr(eqp.Shrinkage(0.1, method=method))(samples)
        sizes = [v.aval.size for e in jaxpr.jaxpr.eqns for v in e.outvars]
        assert max(sizes) <= 10 * 100_000


def test_it_is_swept_and_differentiated():
    samples = random_samples(4)
    rhos = np.array([0.0, 0.5, 2.0], np.float32)

    def norm(rho, samples):
        out = eqp.Shrinkage(rho)(samples)
        return sum(jnp.sum(x**2) for x in jtu.tree_leaves(out)), out

    sweep = jax.vmap(jax.grad(norm, has_aux=True), (0, None))
    slopes, swept = jax.jit(sweep)(rhos, samples)
    for rho, slope, one in zip(rhos.tolist(), slopes, flat(swept), strict=True):
        expected = reference(samples, rho)
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)
        numbers = [(reference(samples, rho + h) ** 2).sum() for h in (-1e-5, 1e-5)]
        np.testing.assert_allclose(slope, (numbers[1] - numbers[0]) / 2e-5, rtol=1e-3)


def test_gaussian_moments():
    samples = random_samples(6)
    s = flat(samples)
    shrink = 1 / (1 + 5 * 0.5)
    dense = shrink * np.eye(s.shape[1]) + (1 - shrink) * np.cov(s.T)
    kinds = [eqp.GaussianMoments(0.5, covariance=c) for c in ("dense", "diagonal")]
    got, diagonal = jax.jit(lambda s: [moments(s) for moments in kinds])(samples)
    np.testing.assert_allclose(got.covariance, dense, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vector(got.mean), s.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vector(diagonal.covariance), np.diag(dense), rtol=1e-4)
    assert eqp.GaussianMoments(0.5).covariance == "diagonal"


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
    unequal = {"a": np.zeros((3, 2)), "b": np.zeros((4, 2))}
    for samples in (unequal, np.zeros((0, 2)), np.zeros(())):
        with pytest.raises(errors, match="samples"):
            eqp.Shrinkage(1.0)(jtu.tree_map(jnp.asarray, samples))


size_and_grad = jax.jit(jax.value_and_grad(eqp.effective_sample_size))


def test_effective_sample_size():
    weights = np.array([0.5, 0.3, 0.2])
    for logs, size in (
        (np.log(weights) - 300, 1 / (weights**2).sum()),
        (np.zeros(3), 3),
        (np.array([0.0, -1e4, -1e5]), 1),
    ):
        got, _ = size_and_grad(logs.astype(np.float32))
        np.testing.assert_allclose(got, size, rtol=1e-4)
    # Energies of many examples: large, and far from 0 compared with their differences.
    for offset in (0, -1e4, -1e5, -1e6, -1e7, 1e7):
        logs = (4 * np.sin(np.arange(50)) + offset).astype(np.float32)
        weights = np.exp(logs.astype(np.float64) - logs.max())
        expected = weights.sum() ** 2 / (weights**2).sum()
        assert 1.5 < expected < 45
        got, gradient = size_and_grad(logs)
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    # The gradient, by the quotient rule.
    shares = weights / weights.sum()
    by_hand = 2 * expected * (shares - expected * shares**2)
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-3, atol=1e-4)
    # Samples without weight do not count; where there are no others, the size is 0.
    got, gradient = size_and_grad(np.array([-np.inf, -1e6, -1e6], np.float32))
    assert got == 2
    assert np.isfinite(gradient).all()
    for none in (np.full(3, -np.inf, np.float32), np.zeros(0, np.float32)):
        got, gradient = size_and_grad(none)
        assert got == 0
        assert (np.asarray(gradient) == 0).all()
    assert np.isnan(size_and_grad(np.array([0.0, 0.0, np.nan], np.float32))[0])
