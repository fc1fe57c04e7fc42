"""Toeplitz strategies: the same weights of earlier rounds in every round.

A strategy $C$ with coefficients $c_0, c_1, ...$ has $C_{ts} = c_{t-s}$. They are found
by the library `jax-privacy`, on the host, in double precision.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Float

from ..data import OrderedParticipation


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """Where a strategy is found: on a CPU, in double precision, whatever the user's
    configuration is, and at once, also while a program is traced."""
    with (
        jax.ensure_compile_time_eval(),
        jax.default_device(jax.local_devices(backend="cpu")[0]),
        jax.enable_x64(),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def check_decreasing(coefficients: Float[np.ndarray, " rounds"]) -> None:
    """Refuses coefficients that the sensitivity's theorem is not about."""
    good = np.isfinite(coefficients).all() and (coefficients >= 0).all()
    if not (good and (np.diff(coefficients) <= 0).all()):
        raise ValueError(
            "The strategy that was found has coefficients that are negative or grow, "
            f"for which no sensitivity is known: {coefficients[:8]}. Take fewer bands "
            "or buffers, or more rounds."
        )


def toeplitz_sensitivity(
    coefficients: Float[np.ndarray, " rounds"], participation: OrderedParticipation
) -> float:
    r"""How much at most one client changes the product of as many rounds as there are
    coefficients, which are not negative and do not grow.

    The worst then is to take part as early and as often as can be, always in the same
    direction: the norm of $\sum_{i < k} C_{\cdot, ib}$ (arXiv 2405.13763, theorem 2),
    for at most $k$ rounds at least $b$ apart. If no more is known of the rounds than
    these two, it is attained.
    """
    rounds, apart = len(coefficients), participation.min_separation
    most = participation.most_rounds(rounds)
    rows = np.zeros((-(-rounds // apart), apart))
    rows.flat[:rounds] = coefficients
    summed = np.cumsum(rows, 0)
    summed[most:] -= summed[:-most].copy()
    return float(np.linalg.norm(summed.flat[:rounds]))
