"""What a system is asked, and what parts of the user's own tell it, checked: a number,
or one for each client.
"""

from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from .._check import check_count
from .._words import shown
from .quantity import as_array


def client_numbers(clients: Any) -> Int[np.ndarray, " clients"]:
    """Numbers of clients, from 0."""
    numbers = np.asarray(clients)
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and len(numbers) > 0):
        raise TypeError(
            f"`clients` must be an array of clients' numbers, got {shown(clients)}."
        )
    numbers = numbers.astype(np.int64, copy=False)
    if numbers.min(initial=0) < 0:
        raise ValueError(
            f"`clients` must be numbers from 0 on, got {int(numbers.min())}."
        )
    return numbers


def count_of(
    count: Any, clients: Int[np.ndarray, " clients"]
) -> int | Int[np.ndarray, " clients"]:
    """What draws are counted by: one number, or one for each client."""
    if np.ndim(count) == 0:
        return check_count("count", count, least=0)
    counts = np.asarray(count)
    if counts.dtype.kind not in "iu" or counts.shape != clients.shape:
        raise TypeError(
            "`count` must be an integer, or one for each of the "
            f"{len(clients)} clients, got {shown(count)}."
        )
    if counts.min(initial=0) < 0:
        raise ValueError(f"`count` must be at least 0, got {int(counts.min())}.")
    return counts


def quotient(
    name: str,
    amount: ArrayLike,
    rate_name: str,
    rate: Float[np.ndarray, " clients"],
    clients: Int[np.ndarray, " clients"],
) -> Float[np.ndarray, " clients"]:
    """The seconds that so much takes each client at its rate."""
    amounts = one_or_each(name, amount, len(clients))
    with np.errstate(over="ignore"):
        seconds = amounts / rate
    if seconds.max(initial=0) == np.inf:
        i = int(np.argmax(seconds))
        raise ValueError(
            f"`{rate_name}` is {rate[i]:g} for client {clients[i]}, so that its round "
            "would take for ever. A client that never answers is one with "
            "`drops_after` of 1."
        )
    return seconds


def of_clients(
    name: str, found: Any, clients: Int[np.ndarray, " clients"], kinds: str
) -> Any:
    """What an availability says of clients, which may be one of the user's own."""
    shape, dtype = getattr(found, "shape", None), getattr(found, "dtype", None)
    if shape != clients.shape or dtype is None or dtype.kind not in kinds:
        what = "truth value" if kinds == "b" else "time"
        raise TypeError(
            f"`{name}` of the `availability` must return an array with one {what} for "
            f"each of the {len(clients)} clients, got {shown(found)}."
        )
    if np.isnan(found).any():
        i = int(np.flatnonzero(np.isnan(found))[0])
        raise ValueError(
            f"`{name}` of the `availability` returned NaN for client {clients[i]}."
        )
    return found if kinds == "b" else found.astype(np.float64, copy=False)


def one_or_each(name: str, x: Any, number: int) -> Float[np.ndarray, " clients"]:
    """One number for all clients, or one for each, finite and at least 0, as one for
    each."""
    if type(x) in (int, float) and 0 <= x < np.inf:
        return np.full(number, x, np.float64)  # most of the time, and at once
    array = as_array(name, x)
    if array is None or array.shape not in ((), (number,)):
        raise TypeError(
            f"`{name}` must be a number, or one for each of the {number} clients, got "
            f"{shown(x)}."
        )
    # A NaN is neither.
    if not (array.min(initial=0) >= 0 and array.max(initial=0) < np.inf):
        raise ValueError(f"`{name}` must be finite and at least 0, got {shown(x)}.")
    return np.broadcast_to(array, (number,))
