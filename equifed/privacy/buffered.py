"""Noise that depends on that of all rounds, through a few sums of it that decay."""

import functools

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Float

from .._check import check_count
from .._tree import wide_dtype
from .extra import jax_privacy
from .noise import AbstractNoise, normal_like
from .toeplitz import check_decreasing, on_host, toeplitz_sensitivity


class BufferedToeplitzNoise(AbstractNoise):
    r"""Noise by a buffered linear Toeplitz factorisation (BLT; Dvijotham et al., 2024,
    arXiv 2404.16706; for federated rounds McMahan et al., 2024, arXiv 2408.08868):

    $$\xi_t = z_t - \sum_j \omega_j b_{j,t}, \qquad b_{j,t+1} = \theta_j b_{j,t} +
    \xi_t,$$

    where $z_t$ is fresh noise. Its strategy has the coefficients $1, \sum_j \omega_j,
    \sum_j \omega_j \theta_j, ...$: every round weighs on all later ones, at the memory
    of a few messages. The scales $\omega$ and decays $\theta$ make the largest error of
    all sums of first rounds the least, at equal privacy.

    **Arguments:**

    - `num_buffers`: how many sums $b_j$ are kept, each as large as a message. More than
        three or four seldom help.
    - `num_rounds`: the most rounds that will be run.
    - `min_separation`: the rounds from one of a client to its next that the noise is
        made for: the population over the cohort, for `ShuffledSampler(n,
        reshuffle=False)`.
    - `max_participations`: in how many rounds a client takes part; as many as the
        separation allows if not given.

    What a client really does is accounted for, whatever the noise was made for.

    Needs the extra `privacy`, whose library finds the scales and decays.
    """

    num_buffers: int
    num_rounds: int
    decays: tuple[float, ...]
    scales: tuple[float, ...]

    def __init__(
        self,
        num_buffers: int,
        num_rounds: int,
        *,
        min_separation: int,
        max_participations: int | None = None,
    ):
        # The library's own limit: more make its optimisation unstable.
        self.num_buffers = check_count("num_buffers", num_buffers, most=15)
        self.num_rounds = check_count("num_rounds", num_rounds, least=2)
        apart = check_count("min_separation", min_separation)
        times = -(-self.num_rounds // apart)
        if max_participations is not None:
            times = min(times, check_count("max_participations", max_participations))
        found = _optimal(self.num_buffers, self.num_rounds, apart, times)
        self.decays, self.scales = found

    @property
    def is_independent(self):
        return False

    @property
    def most_rounds(self):
        return self.num_rounds

    def init(self, payload):
        def buffers(x):
            return jnp.zeros((self.num_buffers, *x.shape), wide_dtype(x.dtype))

        return jtu.tree_map(buffers, payload)

    def draw(self, payload, state, *, round, key):
        def read(z, buffers):
            # One by one: in this order on any number of devices.
            for j, scale in enumerate(self.scales):
                z = z - jnp.asarray(scale, z.dtype) * buffers[j]
            return z

        def write(x, buffers):
            decays = jnp.asarray(self.decays, x.dtype)
            return decays.reshape(-1, *(1,) * x.ndim) * buffers + x[None]

        noise = jtu.tree_map(read, normal_like(payload, key), state)
        return noise, jtu.tree_map(write, noise, state)

    def sensitivity(self, participation, num_rounds):
        column = _column(self.decays, self.scales, num_rounds)
        return toeplitz_sensitivity(column, participation)


def _column(
    decays: tuple[float, ...], scales: tuple[float, ...], num_rounds: int
) -> Float[np.ndarray, " rounds"]:
    """The first coefficients of the strategy."""
    powers = np.asarray(decays) ** np.arange(num_rounds - 1)[:, None]
    return np.append(1.0, powers @ np.asarray(scales))


@functools.lru_cache
def _optimal(
    num_buffers: int, num_rounds: int, min_separation: int, max_participations: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    library = jax_privacy("matrix_factorization.buffered_toeplitz")
    with on_host():
        found = library.optimize(
            n=num_rounds,
            min_sep=min_separation,
            max_participations=max_participations,
            min_buffers=num_buffers,
            max_buffers=num_buffers,
        )
        decays = tuple(np.asarray(found.buf_decay, np.float64).tolist())
        scales = tuple(np.asarray(found.output_scale, np.float64).tolist())
    check_decreasing(_column(decays, scales, num_rounds))
    return decays, scales
