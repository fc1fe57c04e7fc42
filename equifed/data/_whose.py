"""Errors that say whose example it was.

What goes wrong while a cohort is made (a batching or a transform of the user's own, a
read from a disk) goes wrong with one client's rows, in a thread, long after the data
was given. The id of that client is what the user needs to look for it.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Int

from ._clients import AbstractClients


# Says whose something is, by its place: "client 'anna'".
Whose = Callable[[int], str]

_LENGTH = 200  # of another's words


def failed(what: str, error: Exception) -> Exception:
    """The error that says what failed, and with which error; to be raised from it."""
    kind = OSError if isinstance(error, OSError) else ValueError
    text = " ".join(str(error).split())
    if len(text) > _LENGTH:
        text = f"{text[:_LENGTH]}..."
    return kind(f"{what} failed: {type(error).__name__}: {text}".rstrip(": "))


def in_runs(bounds: Int[np.ndarray, " bounds"], whose: Whose) -> Whose:
    """Whose a row is, where owner `i` has the rows `bounds[i]:bounds[i + 1]`."""
    return lambda row: whose(int(bounds.searchsorted(row, side="right")) - 1)


def owner_of(dataset: AbstractClients) -> Whose:
    """Whose a row of a dataset is."""
    return in_runs(dataset.offsets, lambda client: client_name(dataset, client))


def client_name(dataset: AbstractClients, client: int) -> str:
    return f"client {dataset.client_ids[client]!r}"


def read_rows(dataset: AbstractClients, name: str, start: int, stop: int) -> np.ndarray:
    """The rows `start:stop` of a column.

    **Raises:**

    An error that names the first client whose rows cannot be read.
    """
    column = dataset.columns[name]
    try:
        return np.asarray(column[start:stop])
    except Exception as error:
        bounds, what = dataset.offsets, f"Reading column {name!r}"
        first, last = bounds.searchsorted([start, stop - 1], side="right") - 1
        for client in range(first, last + 1):
            a, b = bounds[client : client + 2].tolist()
            try:
                np.asarray(column[max(start, a) : min(stop, b)])
            except Exception as its_own:
                who = client_name(dataset, int(client))
                raise failed(f"{what} of {who}", its_own) from its_own
        raise failed(what, error) from error


def check_alike(
    examples: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray], *who: str
) -> None:
    """Refuses the examples of two clients that do not go into one array."""

    def kinds(columns: Mapping[str, np.ndarray]) -> dict[str, str]:
        return {n: f"{x.dtype}{list(x.shape[1:])}" for n, x in columns.items()}

    one, other = kinds(examples), kinds(others)
    for name in {**other, **one}:
        if one.get(name) != other.get(name):
            raise ValueError(
                f"Column {name!r} of {who[0]} has examples of {one.get(name, 'none')}, "
                f"but that of {who[1]} of {other.get(name, 'none')}. Bring them to one "
                "shape and dtype, as with `ClientStream(..., transform=...)`."
            )
