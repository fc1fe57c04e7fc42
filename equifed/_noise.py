"""Random keys inside an optimiser.

An Optax transformation that draws noise keeps a key in its state, which begins with the
same seed wherever it is made: every client would draw the same noise in every round. So
such keys are marked, and made to follow from the client's or the round's key as well.
"""

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


def _is_marked(x: Any) -> bool:
    return isinstance(x, NoiseKey)


def marked(tree: PyTree) -> PyTree:
    """Every key in it as a `NoiseKey`."""
    return jtu.tree_map(lambda x: NoiseKey(x) if is_key(x) else x, tree)


def bare(tree: PyTree) -> PyTree:
    """Every `NoiseKey` in it as the key alone."""
    return jtu.tree_map(
        lambda x: x.key if _is_marked(x) else x, tree, is_leaf=_is_marked
    )


def reseed_noise(tree: PyTree, key: PRNGKeyArray) -> PyTree:
    """Makes every `NoiseKey` in it follow from this key too."""

    def one(x: Any) -> Any:
        if not _is_marked(x):
            return x
        # All of its bits: 32 would give two of many clients the same noise.
        words = jr.key_data(key).reshape(-1)
        new = jax.vmap(lambda old: _reseed(old, words))(x.key.reshape(-1))
        return NoiseKey(new.reshape(x.key.shape))

    return jtu.tree_map(one, tree, is_leaf=_is_marked)


def _reseed(key: Array, words: Array) -> Array:
    for i in range(words.size):
        key = jr.fold_in(key, words[i])
    return key
