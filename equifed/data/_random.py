"""Randomness that is the same on every machine, in any order, for ever.

Everything random on the host (who takes part, in which order a client visits its
examples, how a set is partitioned) is drawn from Philox, a counter-based generator:
its bits are a function of a key and a counter, so round 1,000 needs no round 999.
NumPy promises that the raw bits of a bit generator do not change between versions; it
does not promise it for the distributions built on them. So only raw bits are taken
from NumPy, and the few distributions that are needed are written here.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int
from numpy.random.bit_generator import ISeedSequence


T = TypeVar("T")

# What the bits are for: one seed may serve several purposes, and must not repeat.
ORDER = 1
SAMPLE = 2
PARTITION = 3
SPLIT = 4
STREAM = 5
POOL = 6
PLACE = 7
CLOCK = 64  # and the next few: one for each quantity of a `clock.SystemModel`


class _Key(ISeedSequence):
    """A key in the place of a seed: to one that is given as a key NumPy adds entropy of
    the operating system, which takes most of the time and is not used."""

    def __init__(self, *key: int):
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return np.array(self._key, np.uint64)


def generator(seed: int, purpose: int, *counter: int) -> np.random.Generator:
    """A generator that depends on its arguments only; at most three counters."""
    # The lowest word counts the draws; Philox advances it by itself.
    place = np.array((0, *counter, 0, 0, 0)[:4], np.uint64)
    key: Any = _Key(seed, purpose)
    return np.random.Generator(np.random.Philox(key, counter=place))


class Generators:
    """`generator(seed, purpose, *counter)` as a function of the counter, faster: it is
    one generator that is put elsewhere, so that each is used before the next is asked
    for."""

    def __init__(self, seed: int, purpose: int):
        self._rng = generator(seed, purpose)
        self._state: Any = self._rng.bit_generator.state
        self._place = self._state["state"]["counter"]

    def __call__(self, *counter: int) -> np.random.Generator:
        self._place[:] = (0, *counter, 0, 0, 0)[:4]
        self._rng.bit_generator.state = self._state
        return self._rng


def counter_of(client_id: str) -> int:
    """A counter for a client that depends on its id only."""
    digest = hashlib.blake2b(client_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def raw(rng: np.random.Generator, size: int) -> np.ndarray:
    """`size` words of 64 random bits."""
    return rng.bit_generator.random_raw(size)


def permutation(rng: np.random.Generator, size: int) -> Int[np.ndarray, " size"]:
    return raw(rng, size).argsort(kind="stable")


def integers(
    rng: np.random.Generator, stop: int, size: int
) -> Int[np.ndarray, " size"]:
    """Uniform in `range(stop)`, up to a bias of `stop / 2**64`."""
    return (raw(rng, size) % np.uint64(stop)).astype(np.int64)


def shuffle_buffer(
    items: Iterable[T], buffer_size: int, rng: np.random.Generator
) -> Iterator[T]:
    """Draws each item from a buffer of the next `buffer_size`, uniformly."""
    buffer: list[T] = []
    for item in items:
        if len(buffer) < buffer_size:
            buffer.append(item)
            continue
        place = int(integers(rng, len(buffer), 1)[0])
        buffer[place], item = item, buffer[place]
        yield item
    while buffer:
        place = int(integers(rng, len(buffer), 1)[0])
        buffer[place], buffer[-1] = buffer[-1], buffer[place]
        yield buffer.pop()


def uniforms(rng: np.random.Generator, size: int) -> Float[np.ndarray, " size"]:
    """Uniform in the open interval (0, 1), with 53 bits."""
    return ((raw(rng, size) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def normals(rng: np.random.Generator, size: int) -> Float[np.ndarray, " size"]:
    """Standard normal, by the method of Box and Muller."""
    u, v = uniforms(rng, size), uniforms(rng, size)
    return np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)


def dirichlet(
    rng: np.random.Generator, alphas: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Dirichlet: independent Gamma variables, divided by their sum.

    Their logarithms are drawn, because a Gamma variable with a small shape is often
    too small for a floating-point number. A shape of zero gives a zero.
    """
    out = np.zeros(len(alphas))
    positive = alphas > 0
    logs = _log_gammas(rng, alphas[positive])
    powers = np.exp(logs - logs.max())
    out[positive] = powers / powers.sum()
    return out


def _log_gammas(
    rng: np.random.Generator, shapes: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Logarithms of Gamma variables, by the rejection method of Marsaglia and Tsang
    (2000) for a shape of at least 1; below it by `Gamma(a) = Gamma(a + 1) U**(1/a)`.
    """
    size = len(shapes)
    boost = np.where(shapes < 1, np.log(uniforms(rng, size)) / shapes, 0.0)
    d = np.where(shapes < 1, shapes + 1, shapes) - 1 / 3
    with np.errstate(over="ignore"):  # of the largest numbers there are it is 0
        c = 1 / np.sqrt(9 * d)
    out = np.empty(size)
    todo = np.arange(size)
    while len(todo) > 0:
        x, u = normals(rng, len(todo)), uniforms(rng, len(todo))
        v = (1 + c[todo] * x) ** 3
        log_v = np.log(np.where(v > 0, v, 1.0))
        bound = 0.5 * x**2 + d[todo] * (1 - v + log_v)
        accept = (v > 0) & (np.log(u) < bound)
        out[todo[accept]] = (np.log(d[todo]) + log_v)[accept]
        todo = todo[~accept]
    return out + boost
