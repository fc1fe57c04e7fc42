"""A gradient in parts is that of the batch, and takes the memory of a part."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing
from equifed._client.gradient import BatchLoss


KEY = jr.key(0)
RNG = np.random.default_rng(0)
EXAMPLES = {
    "x": jnp.asarray(RNG.normal(size=(7, 3)), jnp.float32),
    "y": jnp.asarray(RNG.normal(size=7), jnp.float32),
}
MODEL = jnp.asarray(RNG.normal(size=3), jnp.float32)
MASKS = [
    [1, 1, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 0, 0, 0],  # a short batch
    [0, 1, 1, 0, 0, 0, 1],
    [0, 0, 0, 0, 0, 0, 0],
]


def loss(model, example, key):
    """It looks at its key, and reports something."""
    error = jnp.tanh(example["x"] @ model) - example["y"] + 0.3 * jr.normal(key)
    return error**2, {"error": eqf.Average(error, jnp.abs(error))}


@functools.partial(jax.jit, static_argnums=1)
def in_all_sizes(mask, mean):
    """The gradient and the metrics, by each way to have them; the whole batch first."""
    found = []
    for size in (None, 1, 3, 9):
        of = loss if size is None else eqf.Microbatched(loss, size=size)
        value = BatchLoss(of, None, EXAMPLES, mask, KEY, mean)
        derivative, (number, metrics) = jax.grad(
            lambda m, value=value: (value(m)[0], value(m)), has_aux=True
        )(MODEL)
        found.append((*value.gradient(MODEL), derivative, metrics, number))
    return found


@pytest.mark.parametrize("mean", [True, False])
def test_a_batch_in_parts(mean):
    """By any size, also one that does not divide, and whatever is there."""
    keys = jr.split(KEY, 7)
    slope = jax.jit(
        jax.vmap(lambda e, key: jax.grad(lambda m: loss(m, e, key)[0])(MODEL))
    )
    slopes = np.asarray(slope(EXAMPLES, keys))
    for mask in MASKS:
        expected, *others = in_all_sizes(jnp.array(mask, bool), mean)
        total = np.array(mask) @ slopes / (max(sum(mask), 1) if mean else 1)
        np.testing.assert_allclose(expected[0], total, rtol=1e-5, atol=1e-6)
        for got in others:
            for x, y in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
                np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-6)


def test_half_precision_is_added_up_in_float32():
    """A thousand parts whose gradients are 1 and 1/256, which bfloat16 cannot add."""
    x = jnp.full(1000, 1 / 256).at[0].set(1).astype(jnp.bfloat16)
    of = eqf.Microbatched(lambda model, x, key: model * x, size=1)
    model = jnp.ones((), jnp.bfloat16)
    batch = (model, None, x, jnp.ones(1000, bool))
    grads, _ = eqf.batch_gradient(of, *batch, key=KEY, mean=False)
    assert grads.dtype == jnp.bfloat16
    np.testing.assert_allclose(grads.astype(float), 1 + 999 / 256, rtol=1 / 256)


DATA = testing.ragged_clients((5, 3, 8))
BATCHING = eqf.data.Epochs(2, batch_size=4)


def of_domain(example):
    return (example["y"] > 0).astype(jnp.int32)


DOMAINS = {"domain": of_domain, "num_domains": 2, "domain_learning_rate": 0.1}
ALGORITHMS = {
    "FedAvg": lambda loss: eqf.FedAvg(loss, optax.adam(0.1), BATCHING),
    "PerFedAvg": lambda loss: eqf.PerFedAvg(loss, optax.sgd(0.1), BATCHING, alpha=0.1),
    "AgnosticFedAvg": lambda loss: eqf.AgnosticFedAvg(
        loss, optax.sgd(0.1), BATCHING, **DOMAINS
    ),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_round_in_parts(name):
    expected, got = (
        rounds(ALGORITHMS[name](of))
        for of in (
            testing.noisy_loss,
            eqf.Microbatched(testing.noisy_loss, size=3),
        )
    )
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def rounds(algorithm):
    loader = eqf.data.Loader(DATA, eqf.data.AllClients(), algorithm.batching)
    state = algorithm.init(testing.Linear(), num_clients=3)
    executor = eqf.Executor(block_size=2)
    state, metrics = algorithm.round(state, loader(0), key=KEY, executor=executor)
    return eqx.filter(state, eqx.is_array), metrics["loss"]


def test_memory_is_that_of_a_part():
    """Of a batch of 64 in parts of 8: what the program holds beside its arguments."""
    model = eqx.nn.MLP(8, "scalar", 256, 6, key=KEY)
    params, rest = eqx.partition(model, eqx.is_array)
    params, trained = eqx.partition(params, lambda x: x.ndim == 1)
    rest = eqx.combine(trained, rest)  # Gradients of weights would be most of it.
    examples = (jnp.ones((64, 8)), jnp.ones(64, bool))

    def error(model, example, key):
        return jax.nn.softplus(model(example)) ** 2

    def memory(of):
        def gradient(params, examples, mask):
            return eqf.batch_gradient(of, params, rest, examples, mask, key=KEY)[0]

        compiled: Any = jax.jit(gradient).lower(params, *examples).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(eqf.Microbatched(error, size=8)) < 0.25 * memory(error)
