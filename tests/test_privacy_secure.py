"""Sums of integers modulo a power of two, and what is sent through them."""

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import equifed as eqf
import equifed.privacy as eqp
from equifed.privacy.modular import ModularSum

from .test_privacy import aggregated, same, trained


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 32),
    st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=4, max_size=4)),
)
def test_the_sum_is_that_of_python_s_integers_modulo_a_power_of_two(num_bits, rows):
    rows = [[0] * 4, *rows]
    stacked = ModularSum.of(jnp.asarray(rows, jnp.int32))
    total = jtu.tree_map(lambda x: x.sum(0, x.dtype), stacked)
    got, wrapped = total.decode(num_bits)
    true = [sum(column) for column in zip(*rows, strict=True)]
    half = 2 ** (num_bits - 1)
    assert got.tolist() == [(x + half) % (2 * half) - half for x in true]
    assert wrapped == sum(not -half <= x < half for x in true)


def test_a_modular_mean_is_a_mean_to_within_its_step():
    payload = {"a": jr.normal(jr.key(1), (5, 40)), "b": jr.normal(jr.key(2), (5, 2, 3))}
    mean = eqp.ModularMean(step=1e-3, num_bits=20)
    out, _, metrics, _ = aggregated(mean, payload, weights=[3.0, 1.0, 0.0, 1.0, 1.0])
    there = np.asarray([0, 1, 3, 4])
    for name, x in payload.items():
        mine = np.asarray(x)[there].mean(0)
        np.testing.assert_allclose(out.payload[name], mine, atol=1e-3)
    assert out.count == 4
    assert metrics["wrapped"].compute() == 0
    fixed = eqp.ModularMean(step=1e-3, expected_clients=8.0)
    halved = aggregated(fixed, payload, weights=[3.0, 1.0, 0.0, 1.0, 1.0])[0]
    np.testing.assert_allclose(halved.payload["a"], out.payload["a"] / 2, rtol=1e-6)


def test_rounding_at_random_is_right_on_average():
    payload = {"a": jnp.full((1, 40_000), -0.3)}
    out = aggregated(eqp.ModularMean(step=1.0), payload)[0].payload["a"]
    assert set(np.unique(out)) == {-1.0, 0.0}
    np.testing.assert_allclose(out.mean(), -0.3, atol=0.01)


def test_what_does_not_fit_is_counted():
    payload = {"a": jnp.asarray([[100.0, 7.0, -128.0], [28.0, 7.0, -1.0]])}
    mean = eqp.ModularMean(step=1.0, num_bits=8, expected_clients=1.0)
    out, _, metrics, _ = aggregated(mean, payload)
    np.testing.assert_array_equal(out.payload["a"], [-128.0, 14.0, 127.0])
    assert metrics["wrapped"].compute() == 2
    large = {"a": jnp.asarray([[1e30, -1e30, jnp.inf]])}
    assert aggregated(mean, large)[0].count == 0  # it is not finite
    mean = eqp.ModularMean(step=1e-9)
    encode = lambda x: mean.encode(  # noqa: E731
        eqf.Message(x, jnp.ones(())), mean.init(x), key=jr.key(0)
    )
    encoded, measured = encode({"a": jnp.asarray([1e30, -1e30, 1e-9])})
    assert encoded[0].residue["a"].tolist() == [2147483520, -(2**31), 1]
    assert measured["saturated"].compute() == 2
    assert int(measured["bits_up"]) == 3 * 32 + 32


def test_one_order_is_as_good_as_another():
    payload = {"a": 100 * jr.normal(jr.key(1), (64, 1000))}
    mean = eqp.ModularMean(step=1e-6, num_bits=31)
    plain = aggregated(mean, payload)[0].payload["a"]
    order = jr.permutation(jr.key(2), 64)
    # Each is rounded with one key here, so that only the order is another one.
    again = aggregated(mean, {"a": payload["a"][order]})[0].payload["a"]
    same(plain, again)
    floats = np.asarray(payload["a"])
    assert (floats.sum(0) != floats[np.asarray(order)].sum(0)).any()


@pytest.mark.parametrize("devices", (2, 4))
def test_the_same_bits_on_any_number_of_devices_in_no_order(devices):
    mean = eqp.ModularMean(step=1e-6)
    mesh = jax.make_mesh(
        (devices,),
        ("clients",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )
    sampler = eqf.data.UniformSampler(6, seed=2)
    one = trained(mean, sampler, num_rounds=3)
    many = trained(mean, sampler, num_rounds=3, mesh=mesh)
    same(one.model, many.model)
    assert one.history[0]["wrapped"] == 0
    assert one.history[0]["saturated"] == 0
