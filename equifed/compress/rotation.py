"""A random rotation before another compressor, and its inverse after.

Of a vector that was rotated at random no number is much larger than the others, so
that a few evenly spaced levels, or one scale, fit them all. The rotation multiplies by
random signs and by the Walsh-Hadamard matrix, which is its own inverse but for a
factor, and takes d log d additions for d numbers.
"""

import math

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_count, check_kind, check_seed, checked
from .._tree import safe_divide, tree_wide
from .base import AbstractLeafwise, unit, width
from .coding import sent
from .lloyd_max import lloyd_max
from .quantize import Sign


@checked()
def walsh_hadamard(x: Float[Array, " size"]) -> Float[Array, " size"]:
    r"""The product of a vector with the Walsh-Hadamard matrix of its length.

    In $d \log_2 d$ additions. Twice is $d$ times the vector. The matrix itself is
    `jax.vmap(walsh_hadamard)(jnp.eye(size))`.

    **Raises:**

    `ValueError` if the length is not a power of two.
    """
    size = _check_length("x", x)
    half = 1
    while half < size:
        pairs = x.reshape(-1, 2, half)
        low, high = pairs[:, 0], pairs[:, 1]
        x = jnp.stack([low + high, low - high], 1)
        half *= 2
    return x.reshape(size)


def _check_length(name: str, x: Array) -> int:
    """The length of a vector, which must be a power of two."""
    if x.ndim != 1 or x.size == 0 or x.size & (x.size - 1):
        raise ValueError(
            f"`{name}` must be a vector whose length is a power of two, got an array "
            f"of the shape {x.shape}. Fill it up with zeros: `jnp.pad(x, (0, n))`."
        )
    return x.size


@checked()
def rotate(x: Float[Array, " size"], key: PRNGKeyArray) -> Float[Array, " padded"]:
    """Rotates a vector at random, filled up with zeros to a power of two."""
    if x.ndim != 1 or x.size == 0:
        shape = f"an array of the shape {x.shape}"
        raise ValueError(f"`x` must be a vector of at least one number, got {shape}.")
    size = _padded(x.size)
    signs = jr.rademacher(key, (size,), x.dtype)
    root = jnp.asarray(math.sqrt(size), x.dtype)
    return walsh_hadamard(jnp.pad(x, (0, size - x.size)) * signs) / root


@checked()
def rotate_back(
    y: Float[Array, " padded"], key: PRNGKeyArray, *, size: int
) -> Float[Array, " size"]:
    """The vector of so many numbers that [`equifed.compress.rotate`][] rotated."""
    _check_length("y", y)
    check_count("size", size, most=y.size)
    signs = jr.rademacher(key, (y.size,), y.dtype)
    root = jnp.asarray(math.sqrt(y.size), y.dtype)
    return (walsh_hadamard(y) * signs / root)[:size]


def _padded(size: int) -> int:
    return 1 << (size - 1).bit_length()


class Rotated(AbstractLeafwise):
    r"""Rotates each array at random, compresses it, and rotates back.

    An array of $d$ numbers is filled up to the next power of two, and so many are
    compressed and counted: 513 numbers are sent as 1024. Where that is much, let
    [`equifed.compress.Whole`][] make one vector of all arrays. As unbiased as the
    compressor.

    **Arguments:**

    - `compressor`: one that compresses each array by itself, such as
        `UniformQuantizer(4)`.
    - `seed`: if given, all clients of a round have one rotation, drawn from this number
        and that of the round, so that a server could sum before it rotates back. If
        not, each has its own, drawn from its key, and their errors are independent.

    ??? cite "Reference"

        [Distributed Mean Estimation with Limited
        Communication](https://arxiv.org/abs/1611.00429)
    """

    compressor: AbstractLeafwise
    seed: int | None

    @checked()
    def __init__(self, compressor: AbstractLeafwise, *, seed: int | None = None):
        self.compressor = compressor
        self.seed = None if seed is None else check_seed(seed)

    def __check_init__(self):
        check_kind("compressor", self.compressor, AbstractLeafwise)

    def leaf(self, x, *, key, round):
        own, key = jr.split(key)
        if self.seed is not None:
            own = jr.fold_in(jr.key(np.uint32(self.seed % 2**32)), round)
            own = jr.fold_in(own, self.seed >> 32)
        rotated = rotate(tree_wide(x), own)
        decoded, bits = self.compressor.leaf(rotated, key=key, round=round)
        return rotate_back(decoded, jr.clone(own), size=x.size), bits


class DRIVE(AbstractLeafwise):
    r"""One bit a number: the signs of the rotated vector, and one scale.

    With $R$ a random rotation, $x$ arrives as $R^{-1}\big(\frac{\lVert x
    \rVert_2^2}{\lVert R x \rVert_1} \operatorname{sign}(R x)\big)$. The scale is that
    of the paper's section 4.2, which is unbiased for a uniform rotation. The fast one
    used here, the paper's too, is close to it if the vector is long.

    **Arguments:**

    - `seed`: as in [`equifed.compress.Rotated`][].

    ??? cite "Reference"

        [DRIVE: One-bit Distributed Mean
        Estimation](https://arxiv.org/abs/2105.08339)

        ```bibtex
        @inproceedings{vargaftik2021drive,
            title={{DRIVE}: {O}ne-bit {D}istributed {M}ean {E}stimation},
            author={Vargaftik, Shay and Ben Basat, Ran and Portnoy, Amit and Mendelson,
                    Gal and Ben-Itzhak, Yaniv and Mitzenmacher, Michael},
            booktitle={NeurIPS},
            year={2021},
        }
        ```
    """

    compressor: Rotated

    @checked()
    def __init__(self, *, seed: int | None = None):
        self.compressor = Rotated(Sign(rotated=True), seed=seed)

    def leaf(self, x, *, key, round):
        return self.compressor.leaf(x, key=key, round=round)


class _Normal(AbstractLeafwise):
    """Rounds to the levels that are best for normal numbers, which those of a rotated
    vector nearly are; with the scale that is unbiased."""

    levels: tuple[float, ...]

    def leaf(self, x, *, key, round):
        x, power = unit(tree_wide(x))
        levels = jnp.asarray(self.levels, x.dtype)
        norm = jnp.linalg.norm(x)
        root = jnp.asarray(math.sqrt(x.size), x.dtype)
        share = safe_divide(x * root, jnp.broadcast_to(norm, x.shape))
        symbols = jnp.searchsorted((levels[1:] + levels[:-1]) / 2, share)
        nearest = levels[symbols]
        scale = safe_divide(jnp.sum(x * x), jnp.sum(x * nearest))
        kinds = symbols.astype(jnp.int32)
        decoded = scale * nearest * power
        return decoded, sent(kinds, len(self.levels), aside=width(x))


class EDEN(AbstractLeafwise):
    r"""$b$ bits a number: DRIVE with more levels.

    The numbers of the rotated vector $R x$, nearly normal, are rounded to the $2^b$
    levels of the Lloyd-Max quantiser, $Q$, and scaled by $\lVert x \rVert^2 / \langle R
    x, Q(R x) \rangle$. With one bit this is [`equifed.compress.DRIVE`][].

    **Arguments:**

    - `num_bits`: $b$, how many bits a number has, from 1 to 8.
    - `seed`: as in [`equifed.compress.Rotated`][].

    ??? cite "Reference"

        [EDEN: Communication-Efficient and Robust Distributed Mean Estimation for
        Federated Learning](https://arxiv.org/abs/2108.08842)

        ```bibtex
        @inproceedings{vargaftik2022eden,
            title={{EDEN}: {C}ommunication-{E}fficient and {R}obust {D}istributed {M}ean
                   {E}stimation for {F}ederated {L}earning},
            author={Vargaftik, Shay and Ben Basat, Ran and Portnoy, Amit and Mendelson,
                    Gal and Ben-Itzhak, Yaniv and Mitzenmacher, Michael},
            booktitle={ICML},
            year={2022},
        }
        ```
    """

    compressor: Rotated

    @checked()
    def __init__(self, num_bits: int, *, seed: int | None = None):
        levels = lloyd_max(_check_bits(num_bits))
        self.compressor = Rotated(_Normal(levels), seed=seed)

    def leaf(self, x, *, key, round):
        return self.compressor.leaf(x, key=key, round=round)


def _check_bits(num_bits: int) -> int:
    if not 1 <= num_bits <= 8:
        raise ValueError(f"`num_bits` must be from 1 to 8, got {num_bits}.")
    return num_bits
