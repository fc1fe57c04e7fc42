"""Sums of integers modulo a power of two, and what is sent through them."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

import equifed as eqf
import equifed.privacy as eqp
from equifed import testing
from equifed.privacy.discrete_gaussian import discrete_gaussian
from equifed.privacy.modular import ModularSum
from equifed.privacy.rounding import conditional_round

from .test_privacy import aggregated, same, trained


INT32 = st.integers(-(2**31), 2**31 - 1)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from((2, 3, 8, 15, 16, 17, 24, 31, 32)),
    st.lists(st.lists(INT32, min_size=4, max_size=4), max_size=12),
)
def test_the_sum_is_that_of_python_s_integers_modulo_a_power_of_two(num_bits, rows):
    rows += [[0] * 4] * (12 - len(rows))
    got, wrapped = summed(jnp.asarray(np.asarray(rows, np.int32)), num_bits)
    true = [sum(column) for column in zip(*rows, strict=True)]
    half = 2 ** (num_bits - 1)
    assert got.tolist() == [(x + half) % (2 * half) - half for x in true]
    assert wrapped == sum(not -half <= x < half for x in true)


@functools.partial(jax.jit, static_argnums=1)
def summed(rows, num_bits):
    total = jtu.tree_map(lambda x: x.sum(0, x.dtype), ModularSum.of(rows))
    return total.decode(num_bits)


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
    encoded, measured = jax.jit(encode)({"a": jnp.asarray([1e30, -1e30, 1e-9])})
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


def test_the_same_bits_on_several_devices_in_no_order():
    mean = eqp.ModularMean(step=1e-6)
    mesh = jax.make_mesh((4,), ("clients",), axis_types=(jax.sharding.AxisType.Auto,))
    sampler = eqf.data.UniformSampler(6, seed=2)
    one = trained(mean, sampler, num_rounds=3)
    many = trained(mean, sampler, num_rounds=3, mesh=mesh)
    same(one.model, many.model)
    assert one.history[0]["wrapped"] == 0
    assert one.history[0]["saturated"] == 0


# The distributed discrete Gaussian mechanism.

draw = jax.jit(discrete_gaussian, static_argnums=1)


@pytest.mark.parametrize("stddev", (0.3, 1.0, 2.5, 40.0))
def test_noise_is_discrete_gaussian(stddev):
    drawn = np.asarray(draw(jr.key(1), (100_000,), jnp.asarray(stddev)))
    k = np.arange(-400, 401)
    pmf = np.exp(-(k**2) / (2 * stddev**2))
    pmf /= pmf.sum()
    variance = (pmf * k**2).sum()
    assert abs(drawn.mean()) < 4 * math.sqrt(variance / drawn.size)
    spread = math.sqrt(((pmf * k**4).sum() - variance**2) / drawn.size)
    assert abs(drawn.var() - variance) < 4 * spread
    assert abs((drawn > 0).mean() - (drawn < 0).mean()) < 0.013
    seen = np.bincount(drawn + 400, minlength=801)
    often = pmf * drawn.size >= 5
    expected = np.append(pmf[often], pmf[~often].sum()) * drawn.size
    seen = np.append(seen[often], seen[~often].sum())
    statistic = ((seen - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    freedom = often.sum()
    assert statistic < freedom + 5 * math.sqrt(2 * freedom) + 5


@pytest.mark.parametrize("stddev", (2.6e8, 2.0**29))
def test_noise_of_very_many_steps_is_normal(stddev):
    # Of 2^32 draws some of 2.6e8 numbers would have one more than others have.
    drawn = np.asarray(draw(jr.key(2), (1_000_000,), jnp.asarray(stddev)), float)
    # Of those beyond 2^31, which wrap, there are too few to matter.
    found = stats.kstest(drawn / stddev, "norm")
    assert found.statistic < 2.2 / math.sqrt(drawn.size)


def test_noise_that_no_range_has_room_for_is_refused():
    # The noise alone of 1 / 0.01 steps, four times: 9 bits have 256 on either side.
    distributed(num_bits=10)
    with pytest.raises(ValueError, match="Give a `step` of at least 0.015625, or more"):
        distributed(num_bits=9)
    made = plan(eqf.data.UniformSampler(4), distributed(step=2.0**-24))
    with pytest.raises(ValueError, match="has a standard deviation .* steps, of which"):
        made.for_epsilon(1e-3)
    # Whoever changes it afterwards is refused by the plan.
    large = jnp.asarray(1e6)
    where = lambda p: p.mechanism.noise_multiplier  # noqa: E731
    made = eqx.tree_at(where, made, large)
    with pytest.raises(ValueError, match="`step` of at least 0.0018"):
        made._check_fits()


def test_no_noise_is_0():
    for none in (0.0, math.nan):
        assert not np.any(draw(jr.key(1), (50,), jnp.asarray(none)))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from((0.02, 0.3, 1.0)))
def test_a_rounded_message_is_within_the_bound(seed, step):
    mech = distributed(100, step=step)
    x = np.random.default_rng(seed).normal(size=mech.padded)
    x = jnp.asarray(x / np.linalg.norm(x) / step, jnp.float32)
    most = mech.most / step
    whole, missed = ROUND(x, most, key=jr.key(seed + 1))
    assert np.linalg.norm(np.asarray(whole, np.float64)) <= most * (1 + 1e-6)
    assert missed == 0
    assert np.abs(np.asarray(whole) - np.asarray(x)).max() < 1
    nothing, missed = ROUND(x, 0.5 / step, key=jr.key(seed))
    assert not np.any(nothing)
    # Of norm 1 it may be rounded to 0, which is within any bound.
    assert missed == 1 or step == 1.0


ROUND = jax.jit(conditional_round, static_argnums=1)


def distributed(num_params=7, *, noise=1.0, step=0.01, expected=4.0, **kwargs):
    return eqp.DistributedDiscreteGaussian(
        0.5,
        noise_multiplier=noise,
        expected_clients=expected,
        step=step,
        num_params=num_params,
        **kwargs,
    )


def test_without_noise_it_is_a_mean_of_clipped_messages():
    payload = {"a": jr.normal(jr.key(1), (4, 5)), "b": jr.normal(jr.key(2), (4, 1, 2))}
    payload["b"] = payload["b"].at[3].set(jnp.nan)
    mech = distributed(noise=0.0, step=1e-5)
    out, state, metrics, _ = aggregated(mech, payload, weights=[5.0, 1.0, 0.0, 1.0])
    plain = eqp.PrivateMean(
        eqp.FlatClip(0.5), noise_multiplier=0.0, expected_clients=4.0
    )
    wanted = aggregated(plain, payload, weights=[5.0, 1.0, 0.0, 1.0])[0]
    for name in payload:
        np.testing.assert_allclose(out.payload[name], wanted.payload[name], atol=1e-5)
    assert (out.count, metrics["wrapped"].compute()) == (2, 0)
    assert state.round == 1


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=7, max_size=7),
    st.sampled_from((0.01, 0.3, 1.0)),
    st.integers(0, 2**31),
)
def test_one_client_changes_the_sum_of_integers_by_the_bound_at_most(
    numbers, step, seed
):
    mech = distributed(noise=0.0, step=step)
    payload = {"a": jnp.asarray(numbers[:3]), "b": jnp.asarray([numbers[3:]])}
    whole = np.float64(encoded(mech, payload, jnp.ones(()), jr.key(seed)))
    assert np.linalg.norm(whole) <= mech.most / step * (1 + 1e-6)
    long = np.linalg.norm(np.asarray(numbers, np.float32)) >= 0.5
    if long and step == 0.01:  # It is clipped, and no shorter than rounding makes it.
        assert np.linalg.norm(whole) >= 100 - math.sqrt(8)
    # Zeroed out it sends nothing.
    assert not np.any(encoded(mech, payload, jnp.zeros(()), jr.key(seed)))


@eqx.filter_jit
def encoded(mech, payload, weight, key):
    message = eqf.Message(payload, weight)
    sent, _ = mech.encode(message, mech.init(payload), key=key)
    return sent.total.residue


def test_the_clients_add_the_noise_together():
    # One key a client, as a round has it.
    mech = distributed(5000, noise=2.0, step=0.05)
    weights = jnp.asarray([1.0, 0.0, 1.0, 1.0])

    @jax.jit
    def one_round(keys):
        zero = {"a": jnp.zeros(5000)}
        state = mech.init(zero)
        encode = lambda w, k: mech.encode(eqf.Message(zero, w), state, key=k)[0]  # noqa: E731
        sent = jax.vmap(encode)(weights, keys)
        total = jtu.tree_map(lambda x: x.sum(0, x.dtype), sent)
        return mech.decode(total, state, key=jr.key(0))

    out, _, metrics = one_round(jr.split(jr.key(3), 4))
    # 2 * 0.5 / 4, though one of the four has no examples.
    np.testing.assert_allclose(np.std(out.payload["a"]), 0.25, rtol=0.05)
    np.testing.assert_allclose(metrics["noise_stddev"].compute(), 0.25)
    assert out.count == 3


def test_the_paper_s_proposition():
    dpa = pytest.importorskip("dp_accounting")
    sampler, rounds, n, z, g, d = eqf.data.UniformSampler(4), 5, 4, 1.5, 0.9, 8
    made = plan(sampler, distributed(noise=z, step=g))
    assert made.adjacency == "zero out one"
    sigma2 = z**2 / n  # in units of the bound on a message
    beta = math.exp(-0.5)
    root = math.sqrt(2 * math.log(1 / beta))
    delta2 = min(
        1 + g**2 * d / 4 + root * g * (1 + g / 2 * math.sqrt(d)),
        (1 + g * math.sqrt(d)) ** 2,
    )
    tau = 10 * sum(
        math.exp(-2 * math.pi**2 * sigma2 / g**2 * k / (k + 1)) for k in range(1, n)
    )
    # Of the rounded message, in steps, the sum of absolute values.
    delta1 = min(math.sqrt(d * delta2) / g, delta2 / g**2) * g
    root_n_sigma = math.sqrt(n * sigma2)
    one = math.sqrt(
        delta2 / (n * sigma2) + 2 * tau * delta1 / root_n_sigma + tau**2 * d
    )
    assert one > 1.001 * math.sqrt(delta2 / (n * sigma2))
    accountant = dpa.rdp.RdpAccountant()
    accountant.compose(dpa.ZCDpEvent(one**2 / 2), rounds)
    np.testing.assert_allclose(made.epsilon(), accountant.get_epsilon(1e-3), rtol=1e-6)


def test_it_is_as_private_as_a_gaussian_where_the_step_is_small():
    dpa = pytest.importorskip("dp_accounting")
    exact = dpa.get_epsilon_gaussian(4.0 / math.sqrt(5), 1e-3)
    sampler = eqf.data.UniformSampler(4)
    epsilon = lambda step: plan(sampler, distributed(noise=4.0, step=step)).epsilon()  # noqa: E731
    assert exact < epsilon(1e-4) < 1.15 * exact
    assert epsilon(1e-4) < epsilon(0.1) < epsilon(1.0)
    assert epsilon(1.0) > 2 * exact
    assert plan(sampler, distributed(noise=0.0)).epsilon() == math.inf


def plan(sampler, mech, **kwargs):
    sizes = {"num_clients": 8, "num_rounds": 5, "delta": 1e-3}
    return eqp.PrivacyPlan(sampler, mech, **sizes, **kwargs)


@pytest.mark.parametrize("sampler", ("UniformSampler", "ShuffledSampler"))
def test_a_training_through_a_modular_sum(sampler):
    count = sum(x.size for x in jtu.tree_leaves(testing.Linear()))
    sampler = getattr(eqf.data, sampler)(4)
    made = plan(sampler, distributed(count), unprotected=("wrapped",))
    made = made.for_epsilon(20.0)
    assert 19.9 < made.epsilon() <= 20.0
    row = trained(made.mechanism, sampler, privacy=made, num_rounds=2).history[-1]
    names = {"round", "epsilon", "wrapped", "noise_stddev", "nonfinite_model"}
    assert set(row) == names
    assert row["wrapped"] == 0


def test_a_clock_that_may_leave_clients_out_is_refused():
    batching = eqf.data.Epochs(1, batch_size=4)
    sampler = eqf.data.UniformSampler(4)
    mech = eqp.DistributedDiscreteGaussian(
        0.5, noise_multiplier=1.0, expected_clients=4, step=2**-10, num_params=4
    )
    made = eqp.PrivacyPlan(sampler, mech, num_clients=8, num_rounds=6, delta=1e-3)
    slow = eqf.clock.SystemModel(speed=np.asarray([1.0] * 4 + [1e-6] * 4))
    work = eqf.clock.Work(flops=1.0, bits_down=1.0, bits_up=1.0)
    clock = eqf.clock.SynchronousClock(slow, work, deadline=100.0)
    loader = eqf.data.Loader(
        testing.ragged_clients((8,) * 8), sampler, batching, clock=clock
    )
    algorithm = eqf.FedAvg(
        testing.noisy_loss, optax.sgd(0.1), batching, aggregator=mech
    )
    with pytest.raises(ValueError, match="may leave out some who were drawn"):
        eqf.train(
            algorithm,
            testing.Linear(),
            loader,
            num_rounds=2,
            key=jr.key(0),
            privacy=made,
        )
