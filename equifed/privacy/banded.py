"""Noise that depends on that of the last few rounds."""

import functools

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .._check import check_count
from .._tree import wide_dtype
from .extra import jax_privacy
from .noise import AbstractNoise, normal_like
from .toeplitz import check_decreasing, on_host, toeplitz_sensitivity


class BandedNoise(AbstractNoise):
    r"""Noise by a banded Toeplitz factorisation (Choquette-Choo et al., 2023, arXiv
    2306.08153):

    $$\xi_t = \frac{1}{c_0} \Bigl( z_t - \sum_{i=1}^{b-1} c_i \xi_{t-i} \Bigr),$$

    where $z_t$ is fresh noise, and the coefficients $c_0 \ge ... \ge c_{b-1} \ge 0$, of
    norm 1, make the mean squared error of all sums of first rounds the least. It is
    made for clients who take part at least $b$ rounds apart, as with
    `ShuffledSampler(n, reshuffle=False)`: $k$ times then count as $\sqrt{k}$. Where
    they may come sooner that is accounted for too, but there it may be no better than
    independent noise.

    It keeps the noise of $b - 1$ rounds, each as large as a message.

    **Arguments:**

    - `num_bands`: the $b$.
    - `num_rounds`: the most rounds that will be run, at least `num_bands`.

    Needs the extra `privacy`, whose library finds the coefficients.
    """

    num_bands: int
    num_rounds: int
    coefficients: tuple[float, ...]

    def __init__(self, num_bands: int, num_rounds: int):
        self.num_rounds = check_count("num_rounds", num_rounds)
        self.num_bands = check_count("num_bands", num_bands, most=self.num_rounds)
        self.coefficients = _optimal(self.num_bands, self.num_rounds)

    @property
    def is_independent(self):
        return self.num_bands == 1

    @property
    def most_rounds(self):
        return self.num_rounds

    def init(self, payload):
        def rows(x):
            return jnp.zeros((self.num_bands - 1, *x.shape), wide_dtype(x.dtype))

        return jtu.tree_map(rows, payload)

    def draw(self, payload, state, *, round, key):
        fresh = normal_like(payload, key)
        if self.num_bands == 1:
            return fresh, state
        kept = self.num_bands - 1
        # Row `j` is of the last round whose number is `j` modulo their number.
        ago = jnp.mod(round - 1 - jnp.arange(kept), kept)
        first, *others = self.coefficients

        def correlate(z, rows):
            weights = jnp.asarray(others, z.dtype)[ago]
            # One by one: in this order on any number of devices.
            for j in range(kept):
                z = z - weights[j] * rows[j]
            return z / jnp.asarray(first, z.dtype)

        noise = jtu.tree_map(correlate, fresh, state)
        place = jnp.mod(round, kept)
        return noise, jtu.tree_map(lambda rows, x: rows.at[place].set(x), state, noise)

    def sensitivity(self, participation, num_rounds):
        column = np.zeros(max(num_rounds, self.num_bands))
        column[: self.num_bands] = self.coefficients
        return toeplitz_sensitivity(column[:num_rounds], participation)


@functools.lru_cache
def _optimal(num_bands: int, num_rounds: int) -> tuple[float, ...]:
    if num_bands == 1:
        return (1.0,)
    library = jax_privacy("matrix_factorization.toeplitz")
    with on_host():
        found = library.optimize_banded_toeplitz(num_rounds, num_bands)
        found = np.asarray(found, np.float64)
    check_decreasing(found)
    return tuple(found.tolist())
