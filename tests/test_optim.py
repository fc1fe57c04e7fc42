"""Opening Optax's closures changes nothing but what is a leaf."""

# Optax's annotations ask for less than Optax takes, and some are wrong on purpose.
# pyright: reportArgumentType=false, reportIndexIssue=false

import contextlib
import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing

from .algorithms import ALGORITHMS
from .shared import line_loss


PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array(0.1)}

OPTIMISERS = {
    "sgd": lambda: optax.sgd(0.1),
    "sgd of an integer": lambda: optax.sgd(1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "nesterov": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(0.01, b1=0.8, eps=1e-4),
    "adamw": lambda: optax.adamw(0.01, weight_decay=0.1),
    "adamw of a mask": lambda: optax.adamw(0.01, mask=MASK),
    "yogi": lambda: optax.yogi(0.01),
    "adagrad": lambda: optax.adagrad(0.1),
    "rmsprop": lambda: optax.rmsprop(0.01, momentum=0.9),
    "lion": lambda: optax.lion(0.01),
    "clip": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1)),
    "exponential": lambda: optax.sgd(optax.exponential_decay(0.1, 2, 0.5)),
    "cosine": lambda: optax.sgd(optax.cosine_decay_schedule(0.1, 4)),
    "warm-up": lambda: optax.adam(
        optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 5, 0.01)
    ),
    "piecewise": lambda: optax.sgd(
        optax.piecewise_constant_schedule(0.1, {2: 0.5, 4: 0.1})
    ),
    "one cycle": lambda: optax.sgd(optax.linear_onecycle_schedule(5, 0.1)),
    "joined": lambda: optax.sgd(
        optax.join_schedules(
            [optax.constant_schedule(0.1), optax.linear_schedule(0.1, 0.0, 3)], [2]
        )
    ),
    "multi": lambda: optax.multi_transform(
        {"w": optax.sgd(0.1), "b": optax.adam(0.01)}, {"w": "w", "b": "b"}
    ),
}
MASK = {"w": True, "b": False}


def enable_x64():
    new = getattr(jax, "enable_x64", None)
    if new is not None:
        return new(True)
    from jax.experimental import enable_x64 as old  # pyright: ignore

    return old()


def steps(optims, num_steps=6):
    """The params of each optimiser after each of some steps on a fixed, uneven sequence
    of gradients: one program for all."""

    def step(carry, i):
        new = {}
        for name, (params, state) in carry.items():
            grads = jtu.tree_map(lambda p: jnp.cos(3 * p + i), params)
            updates, state = optims[name].update(grads, state, params)
            new[name] = optax.apply_updates(params, updates), state
        return new, {name: params for name, (params, _) in new.items()}

    @jax.jit
    def run(params):
        begin = {name: (params, optim.init(params)) for name, optim in optims.items()}
        return jax.lax.scan(step, begin, jnp.arange(float(num_steps)))[1]

    return jax.device_get(run(PARAMS))


@functools.cache
def expected_and_got():
    with jax.numpy_dtype_promotion("standard"):  # Optax by itself needs it
        expected = steps({name: make() for name, make in OPTIMISERS.items()})
    got = steps({name: eqf.Optim(make()) for name, make in OPTIMISERS.items()})
    return expected, got


@pytest.mark.parametrize("name", OPTIMISERS)
def test_equals_raw_optax(name):
    expected, got = expected_and_got()
    jtu.tree_map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        got[name],
        expected[name],
    )
    # Whatever is not a number can key a compilation.
    optim, again = (eqf.Optim(OPTIMISERS[name]()) for _ in range(2))
    assert hash(optim.static) == hash(again.static)
    assert optim.static == again.static


def test_hyper_parameters_are_leaves():
    optim = eqf.Optim(optax.adam(0.01, b1=0.8, b2=0.95, eps=1e-4))
    leaves = sorted(float(x) for x in jtu.tree_leaves(eqx.filter(optim, eqx.is_array)))
    for number in (0.8, 0.95, 1e-4):
        assert any(np.isclose(number, leaf) for leaf in leaves)
    assert any(np.isclose(abs(leaf), 0.01) for leaf in leaves)
    assert all(x.dtype == jnp.float32 for x in jtu.tree_leaves(optim.numbers))


def test_rebuilding_does_not_retrace():
    traces = 0

    @eqx.filter_jit
    def update(optim, grads):
        nonlocal traces
        traces += 1
        return optim.update(grads, optim.init(PARAMS), PARAMS)[0]

    rates = (0.1, 0.2, np.float64(0.3), jnp.asarray(0.4))
    for rate in rates:
        optim = eqf.Optim(
            optax.chain(optax.clip(1e3), optax.sgd(rate, momentum=0.9, nesterov=True))
        )
        got = update(optim, PARAMS)
        # The first step of Nesterov's momentum.
        np.testing.assert_allclose(got["b"], -rate * 1.9 * 0.1, rtol=1e-5)
    assert traces == 1
    # Structure is not a hyper-parameter.
    update(eqf.Optim(optax.sgd(0.1, momentum=0.9)), PARAMS)
    assert traces == 2


def test_functions_of_one_source_are_not_confused():
    # Both have the same name and stand in the same line of source.
    constants = [lambda count: 0.25, lambda count: 0.5]  # fmt: skip
    defaults = [lambda count, rate=rate: rate for rate in (0.25, 0.5)]

    def close(rate):
        return lambda count: rate

    @eqx.filter_jit
    def moved(optim):
        return optim.update(PARAMS, optim.init(PARAMS), PARAMS)[0]["b"]

    for schedules in (constants, defaults, [close(0.25), close(0.5)]):
        for rate, schedule in zip((0.25, 0.5), schedules, strict=True):
            got = moved(eqf.Optim(optax.sgd(schedule)))
            np.testing.assert_allclose(got, -rate * 0.1, rtol=1e-5)


def test_a_schedule_that_is_a_table():
    def look_up(table):
        return lambda count: table[count]

    optims = {
        "Optax": optax.sgd(look_up(jnp.array([0.25, 0.5]))),
        "of JAX": eqf.Optim(optax.sgd(look_up(jnp.array([0.25, 0.5])))),
        "of NumPy": eqf.Optim(optax.sgd(look_up(np.array([0.25, 0.5])))),
    }
    got = steps(optims, 2)
    for name, optim in optims.items():
        np.testing.assert_allclose(got[name]["w"], got["Optax"]["w"], rtol=1e-5)
        assert name == "Optax" or isinstance(hash(optim.static), int)


def test_a_vmap_over_rates_and_their_gradient():
    grads = {"w": np.ones((2, 2), np.float32), "b": np.ones((), np.float32)}

    def moved(rate):
        optim = eqf.Optim(optax.sgd(rate))
        return optim.update(grads, optim.init(PARAMS), PARAMS)[0]["b"]

    rates = np.array([0.1, 0.5], np.float32)
    np.testing.assert_allclose(jax.jit(jax.vmap(moved))(rates), -rates)
    np.testing.assert_allclose(jax.jit(jax.grad(moved))(0.3), -1.0)


KEPT = ("adamw", "momentum", "clip", "warm-up", "yogi")


@functools.cache
def one_step(dtype):
    """What each of them has of a step: updates, and its state before and after."""

    @jax.jit
    def run(params):
        got = {}
        for name in KEPT:
            optim = eqf.Optim(OPTIMISERS[name]())
            state = optim.init(params)
            got[name] = (*optim.update(params, state, params), state)
        return got

    return run(jtu.tree_map(lambda x: np.asarray(x).astype(dtype), PARAMS))


@pytest.mark.parametrize("name", KEPT)
def test_dtypes_are_kept(name):
    def check(dtype):
        updates, after, state = one_step(dtype)[name]
        assert {x.dtype for x in jtu.tree_leaves(updates)} == {jnp.dtype(dtype)}
        assert jtu.tree_map(jnp.result_type, after) == jtu.tree_map(
            jnp.result_type, state
        )
        return np.asarray(updates["b"])

    check(jnp.bfloat16)
    single = check(jnp.float32)
    with enable_x64():
        double = check(jnp.float64)
        assert double.dtype == jnp.float64
        np.testing.assert_allclose(single, double, rtol=1e-4)


# What promotes, or changes a dtype, is seen when a round is traced. These are run too:
# in half precision, where a step may be lost and some linear algebra there is not, and
# one in the double that is like the single of all other tests.
RUN = {
    "bfloat16": {"Scaffold-1", "FedDyn", "Mime", "HypCluster", "FedPA", "FedEP"},
    "float64": {"FedAvg-adam"},
}


TWO_EPOCHS = eqf.data.Epochs(2, batch_size=4)


@functools.cache
def given(dtype):
    """A cohort and a model, where 64 bits are as the test has them."""
    cohort = eqf.data.cohort(testing.ragged_clients((5, 0, 3)), TWO_EPOCHS)
    info = {"staleness": jnp.zeros_like(cohort.index)}
    model = jtu.tree_map(lambda x: x.astype(dtype), testing.Linear())
    return dataclasses.replace(cohort, info=info), model


@pytest.mark.parametrize("dtype", ("bfloat16", "float64"))
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_round_is_strict(name, dtype):
    with contextlib.ExitStack() as stack:
        if dtype == "float64":
            stack.enter_context(enable_x64())
        stack.enter_context(jax.numpy_dtype_promotion("strict"))
        stack.enter_context(jax.numpy_rank_promotion("raise"))
        cohort, model = given(dtype)
        algorithm = ALGORITHMS[name](line_loss, TWO_EPOCHS)
        init, run = eqx.filter_jit(algorithm.init), algorithm.round
        if name not in RUN[dtype]:
            init = functools.partial(eqx.filter_eval_shape, algorithm.init)
            run = functools.partial(eqx.filter_eval_shape, run)
        needs, roles = algorithm.needs, None
        if needs:
            roles = eqf.roles(model, **{needs[0]: lambda m: m.bias})
        state = init(model, num_clients=3, key=jr.key(1), roles=roles)
        new, metrics = run(state, cohort, key=jr.key(0))
        for before, after in zip(
            jtu.tree_leaves(state), jtu.tree_leaves(new), strict=True
        ):
            assert (before.dtype, before.shape) == (after.dtype, after.shape)
        assert new.params.weight.dtype == jnp.dtype(dtype)
        if name not in RUN[dtype]:
            return
        assert (np.asarray(new.params.bias) != np.asarray(state.params.bias)).any()
        assert metrics["loss"] > 0
        assert metrics["clients"] == 2


def test_the_repr_is_readable():
    text = repr(eqf.Optim(optax.sgd(0.125, momentum=0.5)))
    assert "0.125" in text
    assert "0.5" in text
    assert len(text) < 120
    assert "<function" not in text
    batching = eqf.data.Epochs(1, batch_size=4)
    algorithm = repr(ALGORITHMS["FedAvg-adam"](testing.noisy_loss, batching))
    assert "Optim(" in algorithm
    assert "0x" not in algorithm

    # Tracers have no number to show, and a sweep has several.
    def traced(rate):
        assert "..." in repr(eqf.Optim(optax.sgd(rate)))
        return rate

    jax.vmap(traced)(jnp.ones(2))
    many = eqx.filter_vmap(lambda rate: eqf.Optim(optax.sgd(rate)))(jnp.ones(2))
    assert "..." in repr(many)


@pytest.mark.parametrize("wrong", (0.1, None, optax.sgd, "sgd", jnp.asarray(0.1)))
def test_what_is_not_an_optimiser(wrong):
    # For what the message says, see `test_bad_inputs.py`.
    with pytest.raises(TypeError):
        eqf.OptaxServer(wrong)


def test_a_second_moment_decays_in_half_precision():
    optim = eqf.Optim(optax.adam(0.1))
    params = {"x": jnp.ones(2, jnp.bfloat16)}
    update, zero = eqx.filter_jit(optim.update), {"x": jnp.zeros(2, jnp.bfloat16)}
    _, state = update(params, optim.init(params), params)
    first = float(state[0].nu["x"][0])
    for _ in range(50):
        updates, state = update(zero, state, params)
    assert updates["x"].dtype == jnp.bfloat16
    np.testing.assert_allclose(state[0].nu["x"], first * 0.999**50, rtol=1e-4)


def branching(rate, decay):
    """A user's own transformation, with a Python `if` on a number."""

    def update(updates, state, params=None):
        if decay > 0:
            updates = jtu.tree_map(lambda g, p: g + decay * p, updates, params)
        return jtu.tree_map(lambda g: -rate * g, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def test_a_python_if_on_a_hyper_parameter():
    traces = 0

    @eqx.filter_jit
    def moved(optim):
        nonlocal traces
        traces += 1
        return optim.update(PARAMS, optim.init(PARAMS), PARAMS)[0]["b"]

    for decay in (0.5, 0.5, 0.0):
        got = moved(eqf.Optim(branching(0.1, decay)))
        np.testing.assert_allclose(got, -0.1 * 0.1 * (1 + decay), rtol=1e-6)
    # Once for each value.
    assert traces == 2
    assert "0.5" in repr(eqf.Optim(branching(0.1, 0.5)))
    # What it does not ask about may be swept over all the same.
    rates = jnp.array([0.1, 0.2])
    many = jax.vmap(lambda rate: moved(eqf.Optim(branching(rate, 0.0))))(rates)
    np.testing.assert_allclose(many, -0.1 * rates, rtol=1e-6)
    with pytest.raises(TypeError, match="`branching` asks for the value"):
        jax.vmap(lambda decay: moved(eqf.Optim(branching(0.1, decay))))(rates)


def test_functions_are_put_together_again():
    def recursive(depth):
        return 1.0 if depth == 0 else 0.5 * recursive(depth - 1)

    raw = optax.stateless(lambda g, p: jtu.tree_map(lambda x: recursive(2) * x, g))
    optim = eqf.Optim(raw)
    got, _ = optim.update(PARAMS, optim.init(PARAMS), PARAMS)
    np.testing.assert_allclose(got["w"], 0.25 * PARAMS["w"])
    schedule = functools.partial(lambda count, rate: rate + 0 * count, rate=0.25)
    optim = eqf.Optim(optax.sgd(schedule))
    got, _ = optim.update(PARAMS, optim.init(PARAMS), PARAMS)
    np.testing.assert_allclose(got["w"], -0.25 * PARAMS["w"])
    assert len(jtu.tree_leaves(optim.numbers)) == 1


def by_layer(params):
    """Labels that ask for the structure of the params."""
    return {"w": "first", "b": "second" if params["b"].ndim == 0 else "first"}


def test_several_optimisers():
    def make(rate):
        parts = {"first": optax.sgd(rate), "second": optax.set_to_zero()}
        return optax.multi_transform(parts, by_layer)

    def moved(rate):
        optim = eqf.Optim(make(rate))
        return optim.update(PARAMS, optim.init(PARAMS), PARAMS)[0]

    np.testing.assert_allclose(moved(0.1)["w"], -0.1 * PARAMS["w"], rtol=1e-6)
    assert moved(0.1)["b"] == 0
    rates = jnp.array([0.1, 0.2])
    np.testing.assert_allclose(
        jax.vmap(moved)(rates)["w"], [-r * PARAMS["w"] for r in rates], rtol=1e-6
    )


@pytest.mark.parametrize(
    "optim",
    (
        optax.multi_transform(
            {"first": optax.sgd(0.1), "second": optax.sgd(0.2)}, by_layer
        ),
        optax.adamw(0.1, mask=lambda p: jtu.tree_map(lambda x: x.ndim > 1, p)),
        optax.polyak_sgd(),
    ),
    ids=("multi_transform", "mask", "value"),
)
def test_fednova_has_one_length_for_all_leaves(optim):
    client = eqf.LocalSGD(testing.noisy_loss, optim, eqf.data.Epochs(1, batch_size=4))
    with pytest.raises((TypeError, ValueError), match="FedNova"):
        eqf.Normalized(client).init(PARAMS)


@pytest.mark.parametrize(
    "wrong",
    (
        optax.GradientTransformation(lambda: (), lambda g, s, p: (g, s)),
        optax.GradientTransformation(lambda p: (), lambda g: g),
        optax.GradientTransformation(lambda p: (), lambda g, s, p: (g["w"], s)),
        optax.GradientTransformation(lambda p: 0, lambda g, s, p: (g, (s, s))),
    ),
    ids=("init's arity", "update's arity", "updates", "state"),
)
def test_a_transformation_that_is_none(wrong):
    optim = eqf.Optim(wrong)
    with pytest.raises((TypeError, ValueError), match=r"optimiser.*<lambda>") as error:
        jax.eval_shape(lambda: optim.update(PARAMS, optim.init(PARAMS), PARAMS))
    assert len(str(error.value)) < 600


def noisy(draw, init=lambda params: jnp.zeros((), jnp.int32), *, decay=0.0, name=None):
    """A user's own transformation that adds what it draws, if need be to one leaf."""

    def update(updates, state, params=None):
        if decay > 1:
            raise AssertionError
        where = max(updates) if name is None else name
        noise, state = draw(state, updates[where])
        return {**updates, where: updates[where] + noise}, state

    return optax.GradientTransformation(init, update)


GLOBAL_KEY = jax.random.key(3)


def counted(key):
    def draw(count, x):
        return jax.random.normal(jax.random.fold_in(key(), count), x.shape), count + 1

    return draw


def in_a_loop(count, x):
    def body(i, total):
        key = jax.random.fold_in(jax.random.key(0), i)
        return total + jax.random.uniform(key, x.shape)

    return jax.lax.fori_loop(0, count + 1, body, x), count + 1


def in_a_branch(count, x):
    def draw():
        return jax.random.gamma(jax.random.key(0), 2.0, x.shape)

    return jax.lax.cond(count > 1, draw, lambda: x), count + 1


@pytest.mark.parametrize(
    "draw",
    (
        counted(lambda: jax.random.key(0)),
        counted(lambda: jax.random.PRNGKey(0)),
        counted(lambda: GLOBAL_KEY),
        lambda count, x: (jax.random.normal(jax.random.key(0), x.shape), count),
        lambda count, x: (jax.random.permutation(jax.random.key(0), x), count),
        in_a_loop,
        in_a_branch,
    ),
)
def test_noise_from_a_key_that_all_have_is_refused(draw):
    error = "draws noise from a key that it makes itself.*Keep the key in its state"
    for decay in (0.0, 0.5):  # with numbers that are traced, and that cannot be
        with pytest.raises(ValueError, match=error):
            eqf.Optim(optax.chain(optax.clip(1.0), noisy(draw, decay=decay)))
    # What takes some params only is looked at with these.
    optim = eqf.Optim(noisy(draw, name="w"))
    with pytest.raises(ValueError, match=error):
        jax.eval_shape(lambda: optim.update(PARAMS, optim.init(PARAMS), PARAMS))


def split_and_draw(key, x):
    key, one = jax.random.split(key)
    return jax.random.normal(one, x.shape), key


def scanned(key, x):
    def body(key, x):
        return split_and_draw(key, x)[::-1]

    key, noise = jax.lax.scan(body, key, x)
    return noise, key


def repeated(key, x):
    def body(carry):
        noise, key = split_and_draw(carry[1], x)
        return carry[0] + noise, key, carry[2] + 1

    return jax.lax.while_loop(lambda carry: carry[2] < 3, body, (x, key, 0))[:2]


def in_pairs(state, x):
    noise, key = jax.lax.cond(
        state[1] > 0, split_and_draw, lambda key, x: (x, key), state[0], x
    )
    return noise, (key, state[1] + 1)


def of_the_gradient(count, x):
    seed = jax.lax.bitcast_convert_type(jnp.sum(x).astype(jnp.float32), jnp.uint32)
    return jax.random.normal(jax.random.key(seed), x.shape), count


def test_noise_from_a_key_in_the_state_is_taken():
    def key(params):
        return jax.random.key(0)

    mine = jax.random.key(1)
    for transformation in (
        noisy(split_and_draw, key),
        noisy(jax.jit(split_and_draw), key),
        noisy(scanned, key),
        noisy(repeated, key),
        noisy(in_pairs, lambda params: (jax.random.key(0), jnp.zeros((), jnp.int32))),
        noisy(of_the_gradient),
        noisy(counted(lambda: mine)),  # a key that is held, as one in the state
        noisy(split_and_draw, key, name="w"),
        noisy(counted(lambda: mine), name="w"),
        optax.chain(optax.clip(1.0), noisy(split_and_draw, key), optax.sgd(0.1)),
    ):
        optim = eqf.Optim(transformation)
        jax.eval_shape(lambda o=optim: o.update(PARAMS, o.init(PARAMS), PARAMS))
