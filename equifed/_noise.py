"""Random keys inside an optimiser.

An Optax transformation that draws noise keeps a key in its state, which begins with the
same seed wherever it is made: every client would draw the same noise in every round. So
such keys are marked, and made to follow from the client's or the round's key as well.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, PRNGKeyArray, PyTree


class NoiseKey(eqx.Module):
    """A key that an optimiser draws from."""

    key: Array


def is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def looks_like_a_raw_key(x: Any) -> bool:
    """Whether these are the bits of an old-style key, which nothing tells from other
    unsigned numbers."""
    dtype, shape = getattr(x, "dtype", None), getattr(x, "shape", ())
    return dtype == jnp.uint32 and len(shape) == 1 and shape[0] in (2, 4)


def marked(tree: PyTree) -> PyTree:
    """Every key in it as a `NoiseKey`."""
    return jtu.tree_map(lambda x: NoiseKey(x) if is_key(x) else x, tree)


def bare(tree: PyTree) -> PyTree:
    """Every `NoiseKey` in it as the key alone."""
    return _map_marked(lambda x: x.key, tree)


def reseed_noise(tree: PyTree, key: PRNGKeyArray) -> PyTree:
    """Makes every `NoiseKey` in it follow from this key too."""
    return _map_marked(lambda x: _reseed(x, key), tree)


def _map_marked(function: Callable[[NoiseKey], Any], tree: PyTree) -> PyTree:
    return jtu.tree_map(
        lambda x: function(x) if isinstance(x, NoiseKey) else x,
        tree,
        is_leaf=lambda x: isinstance(x, NoiseKey),
    )


def _reseed(x: NoiseKey, key: PRNGKeyArray) -> NoiseKey:
    # All of its bits: 32 would give two of many clients the same noise.
    words = jr.key_data(key).reshape(-1)
    new = jax.vmap(lambda old: _fold_in_all(old, words))(x.key.reshape(-1))
    return NoiseKey(new.reshape(x.key.shape))


def _fold_in_all(key: Array, words: Array) -> Array:
    for i in range(words.size):
        key = jr.fold_in(key, words[i])
    return key
