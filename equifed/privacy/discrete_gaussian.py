r"""Discrete Gaussian noise, drawn in parallel.

The discrete Gaussian $N_{\mathbb Z}(0, s^2)$ has $P(k) \propto e^{-k^2 / 2 s^2}$ on the
integers. It is drawn by rejection from a discrete Laplace distribution (Canonne, Kamath
and Steinke, 2020, arXiv 2004.00010, algorithms 2 and 3), all numbers at once, and again
those that were not accepted, until none is left. The paper's coins are of exact
rational probabilities; here they are compared with 32 random bits in single precision.
"""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


# A third of the tries is accepted at least, so that none of 10^9 numbers is left after
# so many but with a probability of 10^-13.
_TRIES = 128
# Until at most this part of the numbers is left all are tried together.
_SHARE = 8
# P(V >= v) = e^-v for v = 1, 2, ..., of 2^31.
_GEOMETRIC = np.floor(2.0**31 * np.exp(-np.arange(1, 22))).astype(np.uint32)


def discrete_gaussian(
    key: PRNGKeyArray, shape: tuple[int, ...], stddev: Float[Array, ""]
) -> Int[Array, "..."]:
    """Numbers of the discrete Gaussian distribution; 0 for a `stddev` of 0.

    Each probability is right to about a millionth of itself (that of a proposal to
    2^-31, of its acceptance to single precision), for a `stddev` of at most 2^29.
    """
    stddev = jax.lax.stop_gradient(stddev).astype(jnp.float32)
    size, all_key, rest_key = math.prod(shape), *jr.split(key)
    few = -(-size // _SHARE)
    missing = jnp.broadcast_to(stddev > 0, (size,))
    drawn = jnp.zeros(size, jnp.int32)
    drawn, missing = _drawn(all_key, drawn, missing, stddev, until=few)
    # To try once more costs as much as there are numbers: those left are laid together.
    (places,) = jnp.nonzero(missing, size=few, fill_value=size)
    rest, _ = _drawn(rest_key, jnp.zeros_like(places), places < size, stddev, until=0)
    return drawn.at[places].set(rest, mode="drop").reshape(shape)


def _drawn(
    key: PRNGKeyArray,
    drawn: Int[Array, " numbers"],
    missing: Bool[Array, " numbers"],
    stddev: Float[Array, ""],
    *,
    until: int,
) -> tuple[Int[Array, " numbers"], Bool[Array, " numbers"]]:
    """With those that were missing, and which still are: so many at most."""

    def is_open(loop):
        i, _, missing, _ = loop
        return (i < _TRIES) & (missing.sum() > until)

    def again(loop):
        i, drawn, missing, key = loop
        key, own = jr.split(key)
        proposed, accepted = _proposed(own, drawn.shape, stddev)
        drawn = jnp.where(missing & accepted, proposed, drawn)
        return i + 1, drawn, missing & ~accepted, key

    loop = (jnp.zeros((), jnp.int32), drawn, missing, key)
    _, drawn, missing, _ = jax.lax.while_loop(is_open, again, loop)
    return drawn, missing


def _proposed(
    key: PRNGKeyArray, shape: tuple[int, ...], stddev: Float[Array, ""]
) -> tuple[Int[Array, "..."], Bool[Array, "..."]]:
    r"""A discrete Laplace number of scale $t = \lfloor s \rfloor + 1$, and whether it
    is accepted as one that is Gaussian."""
    a, b, c = (jr.bits(k, shape, jnp.uint32) for k in jr.split(key, 3))
    scale = jnp.floor(stddev).astype(jnp.uint32) + 1
    # Its size is U + t V: U is uniform below t and kept with probability e^(-U / t).
    low = a % scale
    whole = a < jnp.uint32(2**32 - 1) // scale * scale  # else the small were likelier
    high = jnp.zeros(shape, jnp.uint32)
    for threshold in _GEOMETRIC:
        high = high + (b >> 1 < threshold).astype(jnp.uint32)
    size = (low + scale * high).astype(jnp.int32)
    negative = b & 1 == 1
    t, u = scale.astype(jnp.float32), low.astype(jnp.float32)
    x = u + t * high.astype(jnp.float32)  # which int32 may not hold
    variance = jnp.where(stddev > 0, jnp.square(stddev), 1)
    lost = u / t + jnp.square(x - variance / t) / (2 * variance)
    half = jnp.asarray(0.5, jnp.float32)
    coin = (c.astype(jnp.float32) + half) * jnp.asarray(2.0**-32, jnp.float32)
    # Of 0 and -0 one is left out.
    accepted = whole & (coin < jnp.exp(-lost)) & ~(negative & (size == 0))
    return jnp.where(negative, -size, size), accepted
