"""A loop with a dynamic end has the derivative of the same steps, written out."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from equifed._loop import fold_range


BOUND = 7  # kept in segments of three steps, of which the last is short
W, X = np.array([0.3, 0.5, 1.1], np.float32), np.array([1.0, 2.0, 3.0], np.float32)


def step(w, x, i):
    return jnp.sin(w * x) + 0.1 * i * jnp.sum(w)


@jax.jit
@jax.value_and_grad
def written_out(wx, stop):
    w, x = wx
    for i in range(BOUND):
        x = jnp.where(i < stop, step(w, x, float(i)), x)
    return jnp.sum(x**2)


def folded(wx, stop):
    """The weight is closed over; numbers and keys are carried along, as clients do."""
    w, x = wx

    def body(i, carry):
        x, count, key = carry
        return step(w, x, i.astype(x.dtype)), count + 1, jr.fold_in(key, count)

    carry = (x, jnp.zeros_like(stop), jr.key(0))
    x, _, key = fold_range(body, carry, stop, BOUND, differentiable=True)
    return jnp.sum(x**2) + 0 * jr.normal(key)


one = jax.jit(jax.value_and_grad(folded))
several = jax.jit(jax.vmap(jax.value_and_grad(folded), (None, 0)))


@pytest.mark.parametrize("stop", range(BOUND + 1))
def test_the_derivative_is_that_of_the_steps(stop):
    stop = jnp.asarray(stop)
    for got, expected in zip(
        jax.tree.leaves(one((W, X), stop)),
        jax.tree.leaves(written_out((W, X), stop)),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_side_by_side_each_has_its_own_end():
    stops = jnp.asarray([0, 7, 3])
    got = several((W, X), stops)
    for i, stop in enumerate(stops):
        for x, y in zip(
            jax.tree.leaves(got), jax.tree.leaves(one((W, X), stop)), strict=True
        ):
            np.testing.assert_allclose(x[i], y, rtol=1e-5, atol=1e-6)


def test_one_that_has_ended_takes_no_derivative_of_further_steps():
    # The slope of a square root at 0 is infinite, and zero times that is NaN.
    def end(x, stop):
        body = lambda i, x: jnp.sqrt(x) - 1  # noqa: E731
        return fold_range(body, x, stop, 3, differentiable=True)

    slopes = jax.vmap(jax.grad(end), (None, 0))(jnp.asarray(1.0), jnp.asarray([1, 0]))
    np.testing.assert_array_equal(slopes, [0.5, 1.0])
