"""Random numbers of many clients at once, each of which depends on its client alone.

`equifed/data/_random.py` makes a generator for each place that something is drawn at.
Here a generator belongs to a quantity and a count, and client $i$ has its words $2i$
and $2i + 1$. Philox (Salmon et al., 2011) is a function of a counter, so that these can
be had alone: one after another where the clients are few or their numbers small, and
otherwise by the same function over arrays.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from ..data._random import generator, raw


# Up to such a number all clients' words are drawn, which is faster than to choose.
_ALL = 2**14
# From here on arrays are faster than one generator after another.
_MANY = 24
_WORD = np.uint64(32)
_LOW = np.uint64(2**32 - 1)
_MULTIPLIERS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_BUMPS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)


def words(
    seed: int,
    purpose: int,
    clients: Int[np.ndarray, " n"],
    count: int | Int[np.ndarray, " n"],
    branch: int,
) -> Shaped[np.ndarray, "n 2"]:
    """Two words of 64 random bits of each client: of the generator
    `generator(seed, purpose, count, branch)` those at twice its number."""
    if isinstance(count, int) and int(clients.max(initial=0)) < _ALL:
        size = int(clients.max(initial=-1)) + 1
        drawn = raw(generator(seed, purpose, count, branch), 2 * size)
        return drawn.reshape(size, 2)[clients]
    counts = np.broadcast_to(np.asarray(count, np.int64), clients.shape)
    if len(clients) < _MANY:
        drawn = [
            _alone(seed, purpose, client, each, branch)
            for client, each in zip(clients.tolist(), counts.tolist(), strict=True)
        ]
        return np.array(drawn, np.uint64).reshape(-1, 2)
    # NumPy's advances the counter before it uses it.
    place = (clients // 2 + 1, counts, np.full_like(counts, branch))
    drawn = _philox(seed, purpose, *(x.astype(np.uint64) for x in place))
    odd = (clients % 2 == 1)[:, None]
    return np.where(odd, drawn[:, 2:], drawn[:, :2])


def _alone(
    seed: int, purpose: int, client: int, count: int, branch: int
) -> Shaped[np.ndarray, " 2"]:
    rng = generator(seed, purpose, count, branch)
    state = rng.bit_generator.state
    state["state"]["counter"][0] = client // 2
    rng.bit_generator.state = state
    return raw(rng, 4)[2 * (client % 2) :][:2]


def _philox(
    seed: int,
    purpose: int,
    x0: Shaped[np.ndarray, " n"],
    x1: Shaped[np.ndarray, " n"],
    x2: Shaped[np.ndarray, " n"],
) -> Shaped[np.ndarray, "n 4"]:
    """The blocks at these counters."""
    x3 = np.zeros_like(x0)
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


@functools.lru_cache(maxsize=32)
def _table(seed: int, purpose: int, branch: int, size: int) -> Float[np.ndarray, "n 2"]:
    """What the first `size` clients have once and for all: drawn once."""
    drawn = raw(generator(seed, purpose, 0, branch), 2 * size)
    return _uniform(drawn.reshape(size, 2))


def _uniform(drawn: Shaped[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    return ((drawn >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


class Draws(NamedTuple):
    """The random numbers of one quantity of a system: by client and by count."""

    seed: int
    purpose: int
    branch: int = 0

    def uniforms(
        self, clients: Int[np.ndarray, " n"], count: int | Int[np.ndarray, " n"] | None
    ) -> Float[np.ndarray, "n 2"]:
        """Two numbers of each client, uniform in the open interval (0, 1).

        **Arguments:**

        - `clients`: their numbers.
        - `count`: of the round, the event, or whatever is counted; one, or one for each
            client. `None` for what a client has once and for all.
        """
        parts = self.seed, self.purpose
        if count is None:
            most = int(np.max(clients, initial=0))
            return _table(*parts, self.branch, 2 ** most.bit_length())[clients]
        return _uniform(words(*parts, clients, count + 1, self.branch))

    def normals(
        self, clients: Int[np.ndarray, " n"], count: int | Int[np.ndarray, " n"] | None
    ) -> Float[np.ndarray, " n"]:
        """One of each client, standard normal (Box and Muller)."""
        u = self.uniforms(clients, count)
        return np.sqrt(-2 * np.log(u[:, 0])) * np.cos(2 * np.pi * u[:, 1])

    def of(self, part: int) -> "Draws":
        """Those of a part of it, which are others."""
        return self._replace(branch=8 * self.branch + part + 1)
