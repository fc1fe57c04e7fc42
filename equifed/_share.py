"""How many a fraction of so many is: 0.29 of 100 is 29.

In floating point it is not: `0.29 * 100` is 28.999999999999996, and rounded down one
too few. A fraction that somebody writes as `k / n` or in decimals is off by half a unit
in the last place at most, and so is the product; a count that is as close to a whole
number as that is this number.
"""

from typing import overload

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def floor_share(
    share: Float[Array, "*#n"], count: Int[Array, "*#n"]
) -> Int[Array, "*n"]:
    """`share * count`, rounded down; for what is traced too."""
    # The fraction and the product are off by half a unit each, and a little to spare.
    above = 1 + 2 * jnp.finfo(share.dtype).eps
    product = share * count.astype(share.dtype) * jnp.asarray(above, share.dtype)
    return jnp.floor(product).astype(count.dtype)


@overload
def round_share(share: float, count: int) -> int: ...


@overload
def round_share(
    share: float, count: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]: ...


def round_share(share, count):
    """`share * count` on the host, rounded to the nearest whole number, halves up."""
    share, number = np.asarray(share), np.asarray(count)
    above = 1 + 2 * np.finfo(share.dtype).eps
    product = np.floor(share.astype(np.float64) * number * above + 0.5).astype(int)
    return product if isinstance(count, np.ndarray) else int(product)
