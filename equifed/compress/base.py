"""What a compressor is: what the other end will read, and what it took to send it.

Nothing is packed here: a compressor computes what is decoded, and says how many bits a
sender would have needed. Both ends draw the same random numbers, as they follow from
the run's key, the round and the client's number, so that they are never sent.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._bits import Bits
from .._metrics import AbstractMetric, Sum
from .._overrides import inherit_types
from .._tree import wide_dtype


class Sent(eqx.Module):
    """How many bits were sent for one thing, counted in three ways."""

    bits: Bits
    """Of a fixed width: known before the numbers are, and exact."""
    entropy: Float[Array, ""]
    """With the symbols at their empirical entropy, which no code of one symbol after
    another goes below."""
    arithmetic: Float[Array, ""]
    """A bound on arithmetic coding, with what it takes to say how often each symbol
    occurs."""

    @classmethod
    def plain(cls, bits: int) -> "Sent":
        """Of what has no symbols: all three are the same."""
        number = jnp.asarray(bits, jnp.result_type(float))
        return cls(Bits(bits), number, number)

    def with_more(self, bits: int) -> "Sent":
        """Together with so many bits more."""
        return sum_of([self, Sent.plain(bits)])

    @property
    def metrics(self) -> dict[str, AbstractMetric]:
        """As what a client or an aggregator reports."""
        return {
            "bits_up": self.bits,
            "bits_up_entropy": Sum(self.entropy),
            "bits_up_arithmetic": Sum(self.arithmetic),
        }


def sum_of(parts: list[Sent]) -> Sent:
    return jtu.tree_map(lambda *x: sum(x[1:], x[0]), Sent.plain(0), *parts)


class AbstractCompressor(eqx.Module):
    """Turns a tree of numbers into one that takes fewer bits to send."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def init(self, payload: PyTree) -> PyTree:
        """What both ends keep from one message to the next; `None` if nothing."""

    @abc.abstractmethod
    def compress(
        self,
        payload: PyTree,
        memory: PyTree,
        *,
        key: PRNGKeyArray,
        round: Int[Array, ""],
    ) -> tuple[PyTree, PyTree, Sent]:
        """One message.

        **Arguments:**

        - `payload`: what is to be sent.
        - `memory`: what `init` or the last message returned.
        - `key`: of this sender, for this message.
        - `round`: how many rounds went before, the same for all senders.

        **Returns:**

        The payload as it is decoded, the new memory, and what was sent.
        """


class AbstractLeafwise(AbstractCompressor):
    """Compresses each array of a tree by itself, as a vector of its own type.

    What is decoded is of 32 bits at least. An array that holds a number that is not
    finite is decoded as NaN: what is lost is seen, and left out by
    `equifed.DropNonfinite`.
    """

    @abc.abstractmethod
    def leaf(
        self, x: Float[Array, " size"], *, key: PRNGKeyArray, round: Int[Array, ""]
    ) -> tuple[Float[Array, " size"], Sent]:
        """One vector of at least one number, as it is decoded, and what was sent."""

    def init(self, payload):
        return None

    def compress(self, payload, memory, *, key, round):
        leaves, structure = jtu.tree_flatten(payload)
        decoded, sent = [], []
        for i, x in enumerate(leaves):
            if x.size == 0:
                decoded.append(x)
                continue
            wide = wide_dtype(x.dtype)
            is_floating = jnp.issubdtype(x.dtype, jnp.floating)
            flat = x.reshape(-1).astype(x.dtype if is_floating else wide)
            out, bits = self.leaf(flat, key=jr.fold_in(key, i), round=round)
            out = out.astype(wide)
            out = jnp.where(jnp.isfinite(flat).all(), out, jnp.full_like(out, jnp.nan))
            decoded.append(out.reshape(x.shape))
            sent.append(bits)
        return jtu.tree_unflatten(structure, decoded), memory, sum_of(sent)


def width(x: Array) -> int:
    """The bits of one number as it is."""
    return 8 * x.dtype.itemsize


def unit(x: Float[Array, " size"]) -> tuple[Float[Array, " size"], Float[Array, ""]]:
    """A vector over a power of two beside which none of its numbers is large, and that
    power: the squares of what is left neither overflow nor all vanish, and its bits are
    those that they were."""
    _, exponent = jnp.frexp(jnp.abs(x).max())
    # Of a power beyond these the inverse, or the power itself, is no normal number.
    most = jnp.finfo(x.dtype).maxexp - 2
    scale = jnp.ldexp(jnp.ones((), x.dtype), jnp.clip(exponent, -most, most))
    return x / scale, scale


def draw(x: Array, key: PRNGKeyArray) -> Array:
    """Uniform numbers in [0, 1), one for each of a vector."""
    return jr.uniform(key, x.shape, x.dtype)
