"""What a loader says of each client of a round beside its examples."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree, Shaped

from .._words import shown
from ._arrays import canonical
from ._clock import ClockedRound
from ._plan import Plan


Info = Callable[[int, Int[np.ndarray, " clients"]], PyTree]


def with_clock(info: Info | None, walk: Callable[[int], ClockedRound]) -> Info:
    """What is said of the clients, and what the clock says of them beside it.

    **Raises:**

    `ValueError`, once it is called, if these are no two dictionaries of other names.
    """

    def said(round: int, clients: Int[np.ndarray, " clients"]) -> PyTree:
        own = walk(round).info
        given = None if info is None else info(round, clients)
        if own is None or given is None:
            return given if own is None else dict(own)
        if not isinstance(given, Mapping) or given.keys() & own.keys():
            names = ", ".join(map(repr, own))
            raise ValueError(
                f"`info` must return a dictionary without {names}, which the clock "
                f"says, got {shown(given)}."
            )
        return {**given, **own}

    return said


def slots_of(
    info: Info | None, round: int, clients: Int[np.ndarray, " clients"], plan: Plan
) -> PyTree[Shaped[np.ndarray, "devices slots ..."]]:
    """What `info` says of a round's clients, at their slots.

    **Raises:**

    `ValueError` if it does not say as much of each of them, or anything but numbers.
    """
    if info is None:
        return None
    of_each = info(round, clients.copy())
    return jax.tree.map(lambda x: _spread(x, round, clients, plan), of_each)


def _spread(
    x: Any, round: int, clients: Int[np.ndarray, " clients"], plan: Plan
) -> Shaped[np.ndarray, "devices slots ..."]:
    x = np.asarray(x)
    if x.shape[:1] != clients.shape or x.dtype.kind not in "biufc":
        raise ValueError(
            f"`info` must return arrays of numbers with an entry for each of the "
            f"{len(clients)} clients of round {round}, got {shown(x)}. Write "
            "`info=lambda round, clients: domains[clients]`, for example."
        )
    seated = plan.place >= 0
    out = np.zeros((*plan.place.shape, *x.shape[1:]), x.dtype)
    out[seated] = x[plan.place[seated]]
    return canonical(out)
