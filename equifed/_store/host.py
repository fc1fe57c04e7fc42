"""Clients' states in the memory of the host, as NumPy's arrays."""

import copy

import numpy as np

from .store import AbstractPlace, as_bytes, copy_rows, Numbers, Rows


class HostPlace(AbstractPlace):
    """An array for each leaf. Of zeros the operating system keeps nothing until they
    are written."""

    def __init__(self, initial: Rows, num_clients: int):
        self.name = "on the host"
        self._num_clients = num_clients
        self.clear(initial)

    def begin(self, *, anew: bool = True) -> None:
        pass

    def finish(self) -> None:
        pass

    def read(self, leaf: int, numbers: Numbers, out: np.ndarray) -> None:
        copy_rows(out, np.arange(len(numbers)), self._arrays[leaf], numbers)

    def write(self, numbers: Numbers, rows: Rows) -> None:
        for x, new in zip(self._arrays, rows, strict=True):
            copy_rows(x, numbers, new, np.arange(len(numbers)))

    def clear(self, initial: Rows) -> None:
        self._arrays = [_repeated(x, self._num_clients) for x in initial]

    def copy(self) -> "HostPlace":
        new = copy.copy(self)
        new._arrays = [x.copy() for x in self._arrays]
        return new


def _repeated(x: np.ndarray, count: int) -> np.ndarray:
    if not as_bytes(x[None]).any():
        return np.zeros((count, *x.shape), x.dtype)
    return np.broadcast_to(x, (count, *x.shape)).copy()
