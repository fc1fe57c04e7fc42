"""Bad inputs of what counts bits, and of what saves them."""

import jax.numpy as jnp

import equifed as eqf

from .shared import aggregator_round


TABLE: dict[str, dict[str, tuple]] = {}

TABLE["Bits"] = {
    "a fraction": (
        lambda: eqf.Bits(1.5),  # pyright: ignore[reportArgumentType]
        TypeError,
        "`total` must be an integer, got 1.5",
    ),
    "less than none": (lambda: eqf.Bits(-1), ValueError, "`total` must be at least 0"),
    "too many": (lambda: eqf.Bits(2**53), ValueError, "`total` must be at most"),
    "an array of fractions": (
        lambda: eqf.Bits(jnp.ones(2)),
        TypeError,
        "`total` must be an integer",
    ),
    "a sum instead": (
        lambda: aggregator_round(up=lambda x: (x, {"bits_up": eqf.Sum(jnp.ones(()))})),
        TypeError,
        "`metrics['bits_up']` must be a `Bits`",
    ),
}
