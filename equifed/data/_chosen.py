"""Which clients meet a condition."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool

from .._check import check_count
from .._words import shown
from ._arrays import check_function
from ._clients import AbstractClients


def chosen_clients(
    dataset: AbstractClients, keep: Callable[..., Any] | None, min_examples: int
) -> Bool[np.ndarray, " clients"]:
    """The clients with so many examples that a function wants to keep."""
    least = check_count("min_examples", min_examples, least=0)
    if keep is None and least == 0:
        raise ValueError(
            "`filter` was given no condition; write a function of a client's id and "
            "examples, such as `filter(lambda client, examples: ...)`, or "
            "`filter(min_examples=10)`."
        )
    sizes = dataset.client_sizes
    chosen = sizes >= least
    if keep is not None:
        check_function("keep", keep)
        for i in np.flatnonzero(chosen):
            chosen[i] = _answer(keep, dataset, int(i))
    if not chosen.any():
        raise ValueError(
            f"`filter` leaves none of the {dataset.num_clients} clients, and a dataset "
            f"needs one; they have {sizes.min()} to {sizes.max()} examples. Ask for "
            "less."
        )
    return chosen


def _answer(keep: Callable[..., Any], dataset: AbstractClients, number: int) -> bool:
    client_id = dataset.client_ids[number]
    try:
        answer = keep(client_id, dataset.client(number))
    except Exception as error:
        error.add_note(f"This was in `filter`, with client {client_id!r}.")
        raise
    # An array of one for each example would be true or false in a way that nobody
    # meant; one truth value of NumPy's or JAX's is what a comparison gives.
    kind = getattr(getattr(answer, "dtype", None), "kind", None)
    if isinstance(answer, bool) or (kind == "b" and np.ndim(answer) == 0):
        return bool(answer)
    raise TypeError(
        f"`keep` must return True or False, got {shown(answer)} for client "
        f"{client_id!r}. Of an array write `.any()` or `.all()`."
    )
