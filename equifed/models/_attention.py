"""What decoders share: rotary positions, and which tokens a token may look at."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from .._tree import wide_dtype


def rotated(
    x: Float[Array, "length heads size"], theta: float
) -> Float[Array, "length heads size"]:
    r"""Rotary positions (2104.09864): entry $i$ of the first half of a head and entry
    $i$ of the second half are a point of the plane, turned by $t \theta^{-2i/d}$ at
    place $t$. So products of a query and a key know their distance alone."""
    length, _, size = x.shape
    wide = wide_dtype(x.dtype)
    rates = theta ** (-jnp.arange(0, size, 2, dtype=wide) / size)
    angles = jnp.arange(length, dtype=wide)[:, None, None] * rates[None, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(wide), 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def visible(
    length: int, documents: Integer[Array, " length"] | None
) -> Bool[Array, "length length"]:
    """Which tokens (columns) each token (rows) looks at: itself and those before it,
    and of those the ones of its own document."""
    places = jnp.arange(length)
    mask = places[:, None] >= places[None]
    if documents is None:
        return mask
    return mask & (documents[:, None] == documents[None])


def attention(
    query: Float[Array, "length heads size"],
    key: Float[Array, "length shared size"],
    value: Float[Array, "length shared size"],
    mask: Bool[Array, "length length"],
) -> Float[Array, "length heads size"]:
    r"""$\mathrm{softmax}(Q K^T / \sqrt{d}) V$, whose softmax is computed in float32 at
    least; several heads of queries share one of keys and values.

    `jax.nn.dot_product_attention` computes the same, but not under strict promotion.
    """
    length, heads, size = query.shape
    wide = wide_dtype(query.dtype)
    grouped = query.reshape(length, key.shape[1], -1, size)
    scores = jnp.einsum("qhgd,khd->hgqk", grouped, key, preferred_element_type=wide)
    scores = jnp.where(mask[None, None], scores / math.sqrt(size), -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("hgqk,khd->qhgd", weights, value).reshape(length, heads, size)
