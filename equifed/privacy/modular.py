"""Secure aggregation's arithmetic: fixed-point integers, summed modulo a power of two.

A secure sum adds integers modulo $m$ (arXiv 1611.04482), so that nobody sees one
summand. What goes through it must be integers, and their sum must stay within $m$
numbers, or it comes out wrong. Here is that arithmetic without the cryptography. The
sum is one of integers, so it has the same bits in any order, in any blocks and on any
devices. Int32 wraps at $2^{32}$, of which a smaller power of two is a divisor: the last
$b$ bits of a sum are those of the sum of the last $b$ bits.

A real server could not tell that a sum wrapped. The simulator also sums what is above
the lowest 16 bits of each number, from which it knows the sum as it should have been.
"""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree

from .._aggregator import AbstractAggregator
from .._bits import Bits, payload_bits, UP
from .._check import as_number, check_count, checked, number
from .._metrics import Sum
from .._tree import tree_wide, wide_dtype
from .._wire import Aggregate
from .plain import plain_payload


_LOW = 16


class ModularSum(eqx.Module):
    """Integers that are summed, and what tells whether the sum wrapped."""

    residue: PyTree[Int[Array, "..."]]
    """Of which the last bits are sent, and summed modulo a power of two."""
    above: PyTree[Int[Array, "..."]]
    """What is above their lowest 16 bits: not sent, but known to whoever simulates.
    Its sum is exact for less than 2^15 summands."""

    @classmethod
    def of(cls, whole: PyTree[Int[Array, "..."]]) -> "ModularSum":
        """One summand."""
        return cls(whole, jtu.tree_map(lambda x: x >> _LOW, whole))

    def decode(
        self, num_bits: int
    ) -> tuple[PyTree[Int[Array, "..."]], Float[Array, ""]]:
        """The sums in the range that is centred at 0, from $-2^{b-1}$ to $2^{b-1} - 1$;
        and how many of them are not the true ones."""
        centred = jtu.tree_map(lambda x: _centred(x, num_bits), self.residue)
        wrapped = jtu.tree_map(_is_wrong, centred, self.residue, self.above)
        count = [x.sum(dtype=jnp.float32) for x in jtu.tree_leaves(wrapped)]
        return centred, sum(count, jnp.zeros((), jnp.float32))


def _centred(x: Int[Array, "..."], num_bits: int) -> Int[Array, "..."]:
    """The last bits, read as a signed number."""
    unused = 32 - num_bits
    return x << unused >> unused


def _is_wrong(
    centred: Int[Array, "..."], residue: Int[Array, "..."], above: Int[Array, "..."]
) -> Array:
    """Whether the decoded sum is not the true one, each in two parts of 16 bits."""
    low = residue - (above << _LOW)  # the lowest bits' sum, which int32 holds
    true_low, true_above = low & (2**_LOW - 1), above + (low >> _LOW)
    is_right = centred & (2**_LOW - 1) == true_low
    return ~(is_right & (centred >> _LOW == true_above))


def round_at_random(
    x: Float[Array, "..."], *, key: PRNGKeyArray
) -> Float[Array, "..."]:
    """One of the two whole numbers around each, the nearer the likelier: $x$ on
    average."""
    low = jnp.floor(x)
    return low + (jr.uniform(key, x.shape, x.dtype) < x - low).astype(x.dtype)


def fixed_point(
    payload: PyTree, step: Float[Array, ""], num_bits: int, *, key: PRNGKeyArray
) -> tuple[PyTree[Int[Array, "..."]], Float[Array, ""]]:
    """A payload in whole multiples of `step`, rounded at random, within the centred
    range; and how many of its numbers are outside of that, of which the nearest one is
    taken."""
    leaves, structure = jtu.tree_flatten(tree_wide(payload))
    whole, outside = [], jnp.zeros((), jnp.float32)
    for x, k in zip(leaves, jr.split(key, max(len(leaves), 1)), strict=False):
        least, most = _range(num_bits, x.dtype)
        x = x / step.astype(x.dtype)
        outside = outside + ((x < least) | (x > most)).sum(dtype=jnp.float32)
        rounded = round_at_random(jnp.clip(x, least, most), key=k)
        whole.append(rounded.astype(jnp.int32))
    return jtu.tree_unflatten(structure, whole), outside


def _range(num_bits: int, dtype: Any) -> tuple[float, float]:
    """The centred range, in numbers that the dtype has."""
    half = 2 ** (num_bits - 1)
    most = np.asarray(half - 1, dtype)
    if float(most) > half - 1:
        most = np.nextafter(most, np.asarray(0, dtype))
    return float(-half), float(most)


class ModularMean(AbstractAggregator):
    r"""A mean of fixed-point numbers, which a secure sum modulo $2^b$ could carry.

    Each number $x$ of a message is rounded at random to a whole multiple $q \gamma$ of
    the step $\gamma$, with mean $x$, and the mean is $\frac{\gamma}{n} \bigl(\sum_i q_i
    \bmod 2^b \bigr)$, in the range centred at 0. The messages count once each, those
    that are not finite not at all. For the same messages the mean has the same bits
    however they are ordered and dealt to devices.

    Two metrics are for whoever simulates, as no server of a secure sum could know them:
    `wrapped`, how many numbers of the sum left the range and are wrong, and
    `saturated`, how many numbers of messages left it by themselves. Where one is not 0,
    take a larger step, more bits, or clip.

    !!! example

        ```python
        mean = eqf.Clip(eqf.privacy.ModularMean(step=1e-4, num_bits=24), max_norm=1.0)
        ```

    Less than $2^{15}$ clients a round; beyond them `wrapped` may be wrong.
    """

    step: Float[Array, ""]
    num_bits: int
    expected_clients: Float[Array, ""] | None

    @checked()
    def __init__(
        self,
        *,
        step: ArrayLike,
        num_bits: int = 32,
        expected_clients: ArrayLike | None = None,
    ):
        r"""**Arguments:**

        - `step`: the $\gamma$, in the units of a message: what 1 stands for.
        - `num_bits`: the $b$, from 2 to 32.
        - `expected_clients`: what the sum is divided by; if not given, the number of
            messages, which is one more integer of the sum.
        """
        self.step = as_number("step", step, least=0, strict=True)
        self.num_bits = check_count("num_bits", num_bits, least=2, most=32)
        convert = number("expected_clients", least=0, strict=True)
        given = expected_clients
        self.expected_clients = None if given is None else convert(given)

    @property
    def gathers(self):
        return False

    def init(self, payload):
        return dtypes_of(payload)

    def encode(self, message, state, *, key):
        payload, present = plain_payload(message, self)
        whole, outside = fixed_point(payload, self.step, self.num_bits, key=key)
        sent = Bits(modular_bits(payload, self.num_bits))
        metrics = {UP: sent, "saturated": Sum(outside)}
        return (ModularSum.of(whole), present.astype(jnp.int32)), metrics

    def decode(self, encoded, state, *, key):
        total, came = encoded
        whole, wrapped = total.decode(self.num_bits)
        count = came.astype(jnp.result_type(float))
        if self.expected_clients is None:
            divisor, accept = jnp.maximum(count, 1), came > 0
        else:
            divisor, accept = self.expected_clients, jnp.ones((), bool)
        scale = self.step / divisor.astype(self.step.dtype)
        payload = scaled_integers(whole, scale, state)
        aggregate = Aggregate(payload, None, count, count, accept)
        return aggregate, state, {"wrapped": Sum(wrapped)}


def dtypes_of(payload: PyTree) -> PyTree[Array]:
    """For each array of a payload a 0 of the dtype that its mean has: integers have
    forgotten it."""
    return jtu.tree_map(lambda x: jnp.zeros((), wide_dtype(x.dtype)), payload)


def scaled_integers(whole: PyTree, scale: Float[Array, ""], like: PyTree) -> PyTree:
    """Integers times a number, in the dtypes of `like`."""
    return jtu.tree_map(
        lambda x, y: x.astype(y.dtype) * scale.astype(y.dtype), whole, like
    )


def modular_bits(payload: PyTree, num_bits: int) -> int:
    """What one client sends: its numbers, and whether it is there."""
    numbers = sum(math.prod(x.shape) for x in jtu.tree_leaves(payload))
    return numbers * num_bits + payload_bits(np.zeros((), np.int32))
