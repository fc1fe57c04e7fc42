r"""How many bits symbols take: packed, at their entropy, and coded arithmetically.

With $d$ symbols of which there are $L$ kinds, a fixed width takes $\lceil d \log_2 L
\rceil$ bits: they are the digits of one number to the base $L$. The arithmetic code is
that of Suresh et al. (2017, arXiv 1611.00429, theorem 4): with $k$ kinds that occur and
the entropy $H$ of how often each does, $k \log_2(e (d + k) / k) + d H + 2$ bits.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._bits import Bits
from .._check import check_count, checked
from .._tree import safe_divide
from .base import Sent


def packed_bits(count: int, kinds: int) -> int:
    """The bits of so many symbols of so many kinds, packed as digits of one number."""
    check_count("count", count, least=0)
    check_count("kinds", kinds)
    if kinds & (kinds - 1) == 0:
        return count * (kinds.bit_length() - 1)
    return math.ceil(count * math.log2(kinds))


@checked()
def arithmetic_bits(counts: Int[Array, " kinds"]) -> Float[Array, ""]:
    """A bound on the bits of an arithmetic code, with its table of frequencies.

    **Arguments:**

    - `counts`: how often each kind of symbol occurs.
    """
    d, k, coded = _coded(counts)
    share = safe_divide(d + k, k)
    table = k * jnp.log2(jnp.where(k > 0, jnp.e * share, jnp.ones_like(k)))
    return jnp.where(d > 0, table + coded + 2, jnp.zeros_like(d))


def _coded(counts: Array) -> tuple[Array, Array, Array]:
    """How many symbols, of how many kinds, and their number times their entropy."""
    n = jnp.asarray(counts).astype(jnp.result_type(float))
    d, k = n.sum(), (n > 0).sum().astype(n.dtype)
    rate = jnp.log2(jnp.where(n > 0, safe_divide(jnp.broadcast_to(d, n.shape), n), 1))
    return d, k, jnp.sum(n * rate)


def sent(symbols: Int[Array, " size"], kinds: int, *, aside: int) -> Sent:
    """What it takes to send symbols `0, ..., kinds - 1`.

    **Arguments:**

    - `aside`: the bits of the numbers that go with them, such as their range.
    """
    check_count("kinds", kinds)
    counts = jnp.zeros(kinds, jnp.int32).at[symbols].add(1)
    entropy, arithmetic = _coded(counts)[2], arithmetic_bits(counts)
    bits = Bits(packed_bits(symbols.size, kinds) + aside)
    return Sent(bits, entropy + aside, arithmetic + aside)
