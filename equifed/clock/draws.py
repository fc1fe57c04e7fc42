"""Random numbers of many clients at once, each of which depends on its client alone.

`equifed/data/_random.py` makes a generator for each place that something is drawn at.
For one number of each of a million clients that takes too long, so here is the same
function, Philox with four words of 64 bits (Salmon et al., 2011), over arrays.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from ..data._random import generator, raw


# From here on arrays are faster than one generator after another.
_MANY = 24
_WORD = np.uint64(32)
_LOW = np.uint64(2**32 - 1)
_MULTIPLIERS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_BUMPS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)


def words(
    seed: int, purpose: int, *counters: int | Int[np.ndarray, " n"], size: int
) -> Shaped[np.ndarray, "n 4"]:
    """The first four words of `generator(seed, purpose, *counters)`, of each of them.

    **Arguments:**

    - `counters`: three of them, numbers or arrays.
    - `size`: the length of the arrays.
    """
    columns = [np.broadcast_to(np.asarray(c, np.int64), (size,)) for c in counters]
    if size < _MANY:
        rows = zip(*(c.tolist() for c in columns), strict=True)
        drawn = [raw(generator(seed, purpose, *row), 4) for row in rows]
        return np.array(drawn, np.uint64).reshape(size, 4)
    # NumPy's advances the counter before it uses it.
    x0 = np.ones(size, np.uint64)
    x1, x2, x3 = (c.astype(np.uint64) for c in columns)
    keys = np.uint64(seed), np.uint64(purpose)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        for _ in range(10):
            high0, low0 = _product(x0, _MULTIPLIERS[0])
            high1, low1 = _product(x2, _MULTIPLIERS[1])
            x0, x1, x2, x3 = high1 ^ x1 ^ keys[0], low1, high0 ^ x3 ^ keys[1], low0
            keys = keys[0] + _BUMPS[0], keys[1] + _BUMPS[1]
    return np.stack([x0, x1, x2, x3], 1)


def _product(
    x: Shaped[np.ndarray, " n"], y: np.uint64
) -> tuple[Shaped[np.ndarray, " n"], Shaped[np.ndarray, " n"]]:
    """The upper and the lower half of a product of 128 bits."""
    x_high, x_low = x >> _WORD, x & _LOW
    y_high, y_low = y >> _WORD, y & _LOW
    low = x_low * y_low
    middle = x_high * y_low + (low >> _WORD)
    other = x_low * y_high + (middle & _LOW)
    return x_high * y_high + (middle >> _WORD) + (other >> _WORD), x * y


class Draws(NamedTuple):
    """The random numbers of one quantity of a system: by client and by count."""

    seed: int
    purpose: int
    branch: int = 0

    def uniforms(
        self, clients: Int[np.ndarray, " n"], count: int | Int[np.ndarray, " n"] | None
    ) -> Float[np.ndarray, "n 4"]:
        """Four numbers of each client, uniform in the open interval (0, 1).

        **Arguments:**

        - `clients`: their numbers.
        - `count`: of the round, the event, or whatever is counted; one, or one for each
            client. `None` for what a client has once and for all.
        """
        place = 0 if count is None else count + 1
        drawn = words(
            self.seed, self.purpose, clients, place, self.branch, size=len(clients)
        )
        return ((drawn >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52

    def normals(
        self, clients: Int[np.ndarray, " n"], count: int | Int[np.ndarray, " n"] | None
    ) -> Float[np.ndarray, " n"]:
        """One of each client, standard normal (Box and Muller)."""
        u = self.uniforms(clients, count)
        return np.sqrt(-2 * np.log(u[:, 0])) * np.cos(2 * np.pi * u[:, 1])

    def of(self, part: int) -> "Draws":
        """Those of a part of it, which are others."""
        return self._replace(branch=8 * self.branch + part + 1)
