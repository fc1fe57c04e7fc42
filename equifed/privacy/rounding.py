"""Rounding at random that stays within a norm (arXiv 2102.06387, algorithm 1).

Rounded to multiples of a step, a vector may be longer than it was. How much is bounded,
and much less so if a few roundings are refused: which keeps its sensitivity small.
"""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .modular import round_at_random


# How often a message is rounded anew before it counts as 0.
_TRIES = 64


def rounded_bound(step: float, size: int, beta: float) -> float:
    """What the norm of a vector of norm 1 may be once it is rounded to multiples of
    `step`: always, or, if that is less, but for a probability of `beta`."""
    always = (1 + step * math.sqrt(size)) ** 2
    if beta == 0:
        return math.sqrt(always)
    likely = 1 + step**2 * size / 4
    likely += math.sqrt(-2 * math.log(beta)) * step * (1 + step * math.sqrt(size) / 2)
    return math.sqrt(min(always, likely))


def conditional_round(
    x: Float[Array, " size"], most: float, *, key: PRNGKeyArray
) -> tuple[Int[Array, " size"], Float[Array, ""]]:
    """A vector rounded at random to integers whose norm is at most `most`, drawn anew
    until it is; and 1 if it never was, when 0 is taken for it."""

    def is_open(loop):
        i, _, found = loop
        return (i < _TRIES) & ~found

    def again(loop):
        i, _, _ = loop
        whole = round_at_random(x, key=jr.fold_in(key, i))
        return i + 1, whole, jnp.sum(jnp.square(whole)) <= most**2

    x = jax.lax.stop_gradient(x)
    start = (jnp.zeros((), jnp.int32), x, jnp.zeros((), bool))
    _, whole, found = jax.lax.while_loop(is_open, again, start)
    whole = jnp.where(found, whole, jnp.zeros_like(whole))
    return whole.astype(jnp.int32), (~found).astype(jnp.float32)
