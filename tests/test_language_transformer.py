"""The transformer of words computes what its paper says."""

import math

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from equifed import models

from .shared import drawn


TOKENS = np.array([3, 0, 6, 6, 1], np.int32)
SIZES = {"dim": 6, "num_layers": 2, "num_heads": 3, "mlp_size": 5, "max_length": 8}


def made(**kwargs):
    def make(key):
        return models.LanguageTransformer(7, **{**SIZES, **kwargs}, key=key)

    return drawn(make, 0.1, 0.5)


def affine(layer, x):
    return x @ np.asarray(layer.weight).T + np.asarray(layer.bias)


def normal(layer, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * np.asarray(layer.weight) + np.asarray(layer.bias)


def reference(model, tokens):
    table = np.asarray(model.embedding, np.float64)
    dim, length = table.shape[1], len(tokens)
    x = table[tokens] * math.sqrt(dim)
    for t in range(length):
        for i in range(0, dim, 2):
            x[t, i] += math.sin(t / 10_000 ** (i / dim))
            x[t, i + 1] += math.cos(t / 10_000 ** (i / dim))
    for layer in model.layers:
        own = layer.attention
        q, k, v = (affine(y, x) for y in (own.query_proj, own.key_proj, own.value_proj))
        out = np.zeros_like(x)
        for head in np.split(np.arange(dim), own.num_heads):
            for t in range(length):
                scores = np.exp(k[: t + 1, head] @ q[t, head] / math.sqrt(len(head)))
                out[t, head] = scores @ v[: t + 1, head] / scores.sum()
        x = normal(layer.norm1, x + affine(own.output_proj, out))
        inside = np.maximum(affine(layer.dense1, x), 0)
        x = normal(layer.norm2, x + affine(layer.dense2, inside))
    return x @ table.T


def test_the_equations():
    model = eqx.nn.inference_mode(made())
    logits = eqx.filter_jit(model)(jnp.asarray(TOKENS))
    np.testing.assert_allclose(logits, reference(model, TOKENS), rtol=1e-4, atol=1e-4)


def test_dropout():
    model = made(dropout=0.5)
    run = eqx.filter_jit(model)
    one, same = (run(jnp.asarray(TOKENS), key=jr.key(1)) for _ in range(2))
    other = run(jnp.asarray(TOKENS), key=jr.key(2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-2
    with pytest.raises(ValueError, match="needs a key"):
        model(jnp.asarray(TOKENS))


def test_how_it_begins():
    make = eqx.filter_jit(lambda key: models.LanguageTransformer(500, **big, key=key))
    big = {"dim": 96, "num_layers": 2, "num_heads": 8, "mlp_size": 64, "max_length": 4}
    model = make(jr.key(0))
    first, second = model.layers
    for weight, limit in (
        (model.embedding, 0.05),
        (first.attention.query_proj.weight, math.sqrt(6 / (4 * 96))),
        (first.dense1.weight, 1 / math.sqrt(96)),
    ):
        assert 0.99 * limit < np.abs(weight).max() <= limit
        np.testing.assert_allclose(np.std(weight), limit / math.sqrt(3), rtol=0.02)
    assert not np.any(first.attention.key_proj.bias)
    assert np.any(first.dense1.weight != second.dense1.weight)
