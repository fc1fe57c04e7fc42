"""Sending a part of the numbers."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._bits import Bits
from .._check import check_number, checked
from .._tree import tree_wide
from .base import AbstractLeafwise, draw, Sent, width


def _fraction(fraction: float) -> float:
    check_number("fraction", fraction, least=0, strict=True, most=1)
    return float(fraction)


def _num_kept(fraction: float, size: int) -> int:
    return min(max(round(fraction * size), 1), size)


def _only(x: Array, index: Array) -> Array:
    return jnp.zeros_like(x).at[index].set(x[index])


class TopK(AbstractLeafwise):
    r"""Sends the $k$ numbers that are largest in absolute value, and where they are.

    Biased: it goes with [`equifed.compress.ErrorFeedback`][] or
    [`equifed.compress.EF21`][]. Their places take $k \lceil \log_2 d \rceil$ bits, or
    one bit for each of the $d$ numbers if that is less. Which are the largest is asked
    of each array; [`equifed.compress.Whole`][] asks of all together.

    **Arguments:**

    - `fraction`: $k / d$, in (0, 1]; at least one number is sent.

    ??? cite "Reference"

        [Sparsified SGD with Memory](https://arxiv.org/abs/1809.07599)

        ```bibtex
        @inproceedings{stich2018sparsified,
            title={{S}parsified {SGD} with {M}emory},
            author={Stich, Sebastian U. and Cordonnier, Jean-Baptiste and Jaggi,
                    Martin},
            booktitle={NeurIPS},
            year={2018},
        }
        ```
    """

    fraction: float

    @checked()
    def __init__(self, fraction: float):
        self.fraction = _fraction(fraction)

    def leaf(self, x, *, key, round):
        size, kept = x.size, _num_kept(self.fraction, x.size)
        _, index = jax.lax.top_k(jnp.abs(x), kept)
        values = kept * width(x)
        if kept == size:
            return x, Sent.plain(values)
        where = min(kept * (size - 1).bit_length(), size)
        share = kept / size
        # A place holds a number or not: two symbols.
        rate = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
        number = jnp.result_type(float)
        entropy = jnp.asarray(values + size * rate, number)
        table = jnp.asarray(2 * math.log2(math.e * (size + 2) / 2) + 2, number)
        return _only(x, index), Sent(Bits(values + where), entropy, entropy + table)


class RandomK(AbstractLeafwise):
    r"""Sends $k$ of the numbers, drawn without replacement.

    As they are drawn from the client's key, which the server has too, their places cost
    nothing. Scaled by $d / k$ they are unbiased, with the variance $(d / k - 1) \lVert
    x \rVert^2$.

    **Arguments:**

    - `fraction`: $k / d$, in (0, 1]; at least one number is sent.
    - `scaled`: whether they are scaled. With
        [`equifed.compress.ErrorFeedback`][] or [`equifed.compress.EF21`][] they must
        not be: these need a compressor that makes vectors shorter.

    ??? cite "Reference"

        [Sparsified SGD with Memory](https://arxiv.org/abs/1809.07599)
    """

    fraction: float
    scaled: bool = eqx.field(static=True)

    @checked()
    def __init__(self, fraction: float, *, scaled: bool = True):
        self.fraction = _fraction(fraction)
        self.scaled = scaled

    def leaf(self, x, *, key, round):
        kept = _num_kept(self.fraction, x.size)
        _, index = jax.lax.top_k(draw(tree_wide(x), key), kept)
        scale = x.size / kept if self.scaled else 1.0
        # What is scaled by the receiver is sent as it is.
        return tree_wide(_only(x, index)) * scale, Sent.plain(kept * width(x))
