"""Arithmetic on trees: the leaf's own dtype wins, and zero never divides."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equifed import floating
from equifed._tree import (
    params_of,
    safe_divide,
    Static,
    tree_add,
    tree_add_scaled,
    tree_divide,
    tree_isfinite,
    tree_norm,
    tree_scale,
    tree_sub,
    tree_where,
    tree_zeros_like,
)


MIXED = {
    "half": jnp.array([1.0, -2.0], jnp.bfloat16),
    "single": jnp.array([[3.0], [4.0]]),
    "none": None,
}


def dtypes(tree):
    return {name: x if x is None else x.dtype for name, x in tree.items()}


@pytest.mark.parametrize("x", (1, 0.5, np.float64(2.0), np.int32(3), True))
def test_floating_is_strongly_typed(x):
    y = floating(x)
    assert y.shape == ()
    assert y.dtype == jnp.float32
    assert not y.weak_type
    assert float(y) == x


def test_floating_keeps_the_dtype_of_an_array_and_takes_tracers():
    assert floating(jnp.asarray(1.0, jnp.bfloat16)).dtype == jnp.bfloat16
    assert not floating(jnp.asarray(1.0)).weak_type
    assert jax.grad(lambda x: floating(x) ** 2)(3.0) == 6.0
    assert jax.jit(floating)(2).dtype == jnp.float32


def test_dtypes_are_kept_under_strict_promotion():
    wide = jnp.asarray(0.1)
    with jax.numpy_dtype_promotion("strict"):
        for tree in (
            tree_scale(wide, MIXED),
            tree_divide(MIXED, wide),
            tree_add_scaled(MIXED, wide, tree_zeros_like(MIXED)),
            tree_add(MIXED, MIXED),
            tree_sub(MIXED, MIXED),
            tree_where(jnp.asarray(True), MIXED, MIXED),
        ):
            assert dtypes(tree) == dtypes(MIXED)
    # The left tree's dtypes, if they differ.
    single = {"x": jnp.array([1.0])}
    half = {"x": jnp.array([0.5], jnp.bfloat16)}
    assert tree_add(half, single)["x"].dtype == jnp.bfloat16
    assert tree_sub(single, half)["x"].dtype == jnp.float32
    assert tree_add(half, single)["x"] == 1.5
    assert tree_sub(single, half)["x"] == 0.5
    assert tree_add_scaled(single, jnp.asarray(4.0), half)["x"] == 3.0


def test_division_by_zero_is_zero():
    x = {"a": jnp.array([1.0, jnp.inf])}
    np.testing.assert_array_equal(
        tree_divide({"a": jnp.ones(2)}, jnp.zeros(()))["a"], 0.0
    )
    np.testing.assert_allclose(tree_divide(x, jnp.asarray(4.0))["a"], [0.25, np.inf])
    assert safe_divide(jnp.asarray(3.0), jnp.asarray(2.0)) == 1.5
    for argnums in (0, 1):
        slope = jax.grad(safe_divide, argnums)(jnp.asarray(3.0), jnp.zeros(()))
        assert slope == 0.0


def test_norm_is_that_of_all_leaves():
    expected = np.sqrt(1 + 4 + 9 + 16)
    np.testing.assert_allclose(tree_norm(MIXED), expected, rtol=1e-6)
    assert tree_norm(None) == tree_norm({"int": jnp.arange(3)}) == 0.0
    # In bfloat16 the squares would stop adding up at 256.
    half = jnp.ones(4096, jnp.bfloat16)
    assert tree_norm([half[i] for i in range(1024)]) == 32.0
    assert tree_norm(MIXED).dtype == jnp.float32


def test_isfinite_looks_at_every_floating_leaf():
    assert tree_isfinite(MIXED)
    assert tree_isfinite(None)
    assert tree_isfinite({"int": jnp.arange(3), "text": "x"})
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not tree_isfinite({**MIXED, "bad": jnp.array([0.0, bad])})
        assert not tree_isfinite({**MIXED, "bad": jnp.asarray(bad, jnp.bfloat16)})


@pytest.mark.parametrize("dtype", (jnp.float16, jnp.bfloat16, jnp.float32))
@pytest.mark.parametrize("shape", ((7,), (3, 4), (2, 3, 5), (0, 4)))
def test_isfinite_is_exact_at_the_largest_number(dtype, shape):
    largest = jnp.full(shape, jnp.finfo(dtype).max, dtype)
    assert tree_isfinite(largest)
    for bad in (jnp.inf, -jnp.inf, jnp.nan):
        for i in range(largest.size):
            assert not tree_isfinite(largest.at[jnp.unravel_index(i, shape)].set(bad))
    if largest.size > 1:  # Two that would cancel.
        both = largest.ravel().at[0].set(jnp.inf).at[-1].set(-jnp.inf).reshape(shape)
        assert not tree_isfinite(both)


def test_where_chooses_a_whole_tree():
    x = {"a": jnp.zeros(2), "f": "x"}
    y = {"a": jnp.full(2, jnp.nan), "f": "x"}
    chosen = tree_where(jnp.asarray(True), x, y)
    np.testing.assert_array_equal(chosen["a"], 0.0)
    assert chosen["f"] == "x"
    assert jnp.isnan(tree_where(jnp.asarray(False), x, y)["a"]).all()


def test_params_are_the_floating_arrays():
    model = {
        "weight": jnp.ones(2),
        "count": jnp.arange(2),
        "mask": jnp.array([True]),
        "rate": 0.5,
        "host": np.ones(2),
        "function": jax.nn.relu,
    }
    params = params_of(model)
    assert params["weight"] is model["weight"]
    # What counts as trainable: a NumPy array does too, a Python float does not.
    assert {name for name, x in params.items() if x is not None} == {"weight", "host"}


def test_zeros_like_shapes():
    shapes = eqx.filter_eval_shape(lambda: MIXED)
    zeros = tree_zeros_like(shapes)
    assert dtypes(zeros) == dtypes(MIXED)
    assert tree_norm(zeros) == 0.0


def test_static_compares_by_value():
    def tree(x):
        return {"a": (x, jax.nn.relu), "b": None}

    a, b, c = Static(tree(1)), Static(tree(1)), Static(tree(2))
    assert a == a == b
    assert hash(a) == hash(b)
    assert a != c
    assert a != Static([1, jax.nn.relu])
    assert a != tree(1)
    assert b.value() == tree(1)
