"""What is sent, counted to the last bit.

A round's bits pass 2^24 soon, from where on not every whole number is one of float32;
and without 64 bits a device has no longer integers than of 32. So a count is three of
those, digits to the base 2^11, and a sum of counts is the sums of their digits: exact
for a million of counts, and up to 2^53 bits. On the host it is Python's integer.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from ._check import check_count
from ._metrics import AbstractMetric
from ._words import message


_DIGIT = 11
_BASE = 2**_DIGIT


class Bits(AbstractMetric):
    """A whole number of bits, exact however many are summed: the metrics `bits_up` and
    `bits_down` of a round.

    `int(metrics["bits_up"])` is the number; in a training's history it is one already.

    **Arguments:**

    - `total`: the number: Python's own, less than 2^53, or an array of integers, which
        may be traced.
    """

    digits: Int[Array, "*axes 3"]

    def __init__(self, total: int | Int[Array, "..."]):
        if isinstance(total, jax.Array | np.ndarray) and jnp.issubdtype(
            total.dtype, jnp.integer
        ):
            low = jnp.asarray(total)
            parts = [low & (_BASE - 1), low >> _DIGIT & (_BASE - 1), low >> 2 * _DIGIT]
            self.digits = jnp.stack(parts, -1).astype(jnp.int32)
            return
        if isinstance(total, jax.Array | np.ndarray):
            raise TypeError(message("total", "an integer", total))
        total = check_count("total", total, least=0, most=2**53 - 1)
        digits = (total % _BASE, total // _BASE % _BASE, total // _BASE**2)
        self.digits = jnp.asarray(digits, jnp.int32)

    def compute(self) -> Array:
        """The number as one of floating point, which is rounded where it is large."""
        digits = self.digits.astype(jnp.result_type(float))
        base = jnp.asarray([1, _BASE, _BASE**2], digits.dtype)
        return jnp.vecdot(digits, jnp.broadcast_to(base, digits.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.digits.shape[:-1]

    @property
    def ndim(self) -> int:
        return self.digits.ndim - 1

    def sum(self) -> "Bits":
        """The one number that all of an array are together."""
        digits = carried(self).digits.reshape(-1, 3)
        total = digits.sum(0, dtype=digits.dtype)
        return carried(eqx.tree_at(lambda b: b.digits, self, total))

    def __getitem__(self, index: Any) -> "Bits":
        return eqx.tree_at(lambda b: b.digits, self, self.digits[index])

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        digits = np.asarray(self.digits, np.int64)
        return np.asarray(digits @ np.asarray([1, _BASE, _BASE**2]), dtype)

    def __int__(self) -> int:
        return int(np.asarray(self))

    def __float__(self) -> float:
        return float(int(self))


def carried(bits: Bits) -> Bits:
    """The same number, each of whose digits but the highest is less than the base."""
    low, middle, high = jnp.moveaxis(bits.digits, -1, 0)
    middle = middle + (low >> _DIGIT)
    high = high + (middle >> _DIGIT)
    parts = [low & (_BASE - 1), middle & (_BASE - 1), high]
    return eqx.tree_at(lambda b: b.digits, bits, jnp.stack(parts, -1))


def lesser(x: Bits, y: Bits) -> Bits:
    """The lesser number of both, for each of an array `x`."""
    other = jnp.broadcast_to(y.digits, x.digits.shape)
    difference = carried(eqx.tree_at(lambda b: b.digits, x, x.digits - other))
    is_less = difference.digits[..., 2:] < 0  # the digit that has the sign
    digits = jnp.where(is_less, x.digits, other)
    return carried(eqx.tree_at(lambda b: b.digits, x, digits))


def payload_bits(tree: PyTree) -> int:
    """How many bits the arrays of a tree have, as they are."""
    return sum(map(_array_bits, filter(eqx.is_array, jtu.tree_leaves(tree))))


def _array_bits(x: Any) -> int:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.eval_shape(jax.random.key_data, x)
    return math.prod(x.shape) * (1 if x.dtype == bool else 8 * x.dtype.itemsize)


UP, DOWN = "bits_up", "bits_down"
SENT = (UP, DOWN, *(f"{x}_{y}" for x in (UP, DOWN) for y in ("entropy", "arithmetic")))
# The same by the slots of a round, where a `Ledger` asks.
EACH = {name: name.replace("bits", "ledger") for name in SENT}


def add_bits(metrics: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a pass, whose bits are those of other passes too.

    A step of several passes reports what all of them sent.

    **Arguments:**

    - `metrics`: those that the round reports.
    - `others`: the metrics of its other passes, of which only the bits are taken.
    """
    total = dict(metrics)
    for other in others:
        for name, each in EACH.items():
            if name in other and name in total and (each in other) != (each in total):
                raise ValueError(
                    f"Some `{name}` are known of each client, and some of all "
                    "together. What a step counts by itself is made by "
                    "`clients.bits`; and `Ledger` goes around all other wrappers."
                )
        for name in (*SENT, *EACH.values()):
            if name in other:
                known = total.get(name)
                total[name] = other[name] if known is None else known.merge(other[name])
    return total


def bits_of(name: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """Of a pass's metrics those bits alone, of all and, if asked for, of each."""
    return {n: metrics[n] for n in (name, EACH[name]) if n in metrics}


def each_of(sent: dict[str, Any], place: Bool[Array, "..."]) -> dict[str, Any]:
    """The bits of one sender by slots, of which one is its place."""
    return {
        EACH[name]: jtu.tree_map(
            lambda x: jnp.where(place[(..., *[None] * x.ndim)], x, jnp.zeros_like(x)),
            sent[name],
        )
        for name in SENT
        if name in sent
    }
