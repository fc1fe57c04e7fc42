"""What a loader says of each client of a round beside its examples."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree, Shaped

from .._words import shown
from ._plan import Plan


Info = Callable[[int, Int[np.ndarray, " clients"]], PyTree]


def slots_of(
    info: Info | None, round: int, clients: Int[np.ndarray, " clients"], plan: Plan
) -> PyTree[Shaped[np.ndarray, "devices slots ..."]]:
    """What `info` says of a round's clients, at their slots.

    **Raises:**

    `ValueError` if it does not say as much of each of them, or anything but numbers.
    """
    if info is None:
        return None
    seated = plan.place >= 0

    def spread(x: Any) -> np.ndarray:
        x = np.asarray(x)
        if x.shape[:1] != clients.shape or x.dtype.kind not in "biufc":
            raise ValueError(
                f"`info` must return arrays of numbers with an entry for each of the "
                f"{len(clients)} clients of round {round}, got {shown(x)}. Write "
                "`info=lambda round, clients: domains[clients]`, for example."
            )
        out = np.zeros((*plan.place.shape, *x.shape[1:]), x.dtype)
        out[seated] = x[plan.place[seated]]
        return out.astype(jax.dtypes.canonicalize_dtype(x.dtype))

    return jax.tree.map(spread, info(round, clients.copy()))
