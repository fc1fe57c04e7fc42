"""Clients' states in files: one for each leaf, with room for every client's row.

The files are sparse: they take up the rows that were written. They are read through a
memory map and written by the operating system's own call, as a disk that is full then
says so, where a memory map would end the program. What could not be written stays in
memory, so that nothing is lost.

A folder is of use to one training. A program that is killed leaves rows of no
particular round there, which is why checkpoints have files of their own, and why such a
folder may be begun anew. One whose training came to its end is not touched.
"""

import contextlib
import json
import os
import pathlib
import weakref
from typing import Any

import numpy as np

from .folder import check_left, INDEX, locked
from .store import AbstractPlace, as_bytes, Numbers, Rows


class DiskPlace(AbstractPlace):
    """Files in a folder of their own. None is made before a training begins."""

    def __init__(
        self,
        folder: pathlib.Path,
        names: list[str],
        initial: Rows,
        num_clients: int,
    ):
        self.name, self.folder = f"in `{folder}`", folder
        self._names, self._num_clients = names, num_clients
        self._initial = list(initial)
        self._touched = np.zeros(num_clients, bool)
        self._open = _Open()
        self._maps: list[np.ndarray] = []
        self._unwritten: dict[int, list[np.ndarray]] = {}
        self._writing = False
        weakref.finalize(self, self._open.close)
        check_left(folder, self._about)

    @property
    def _about(self) -> dict[str, Any]:
        """What the folder is of."""
        leaves = zip(self._names, self._initial, strict=True)
        kinds = [[name, str(x.dtype), list(x.shape)] for name, x in leaves]
        return {"equifed": "client states", "clients": self._num_clients} | {
            "leaves": kinds
        }

    def begin(self, *, anew: bool = True) -> None:
        """Makes the files, or goes on with those that it has made."""
        if self._writing:
            return
        with self._told("write client states"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                stack.enter_context(locked(self.folder))
                if self._open.files is None:
                    check_left(self.folder, self._about, beginning=anew)
                self._sign(finished=False)
                if self._open.files is None:
                    self._make()
                for leaf in range(len(self._initial)):
                    self._check_size(leaf)
                self._open.lock = stack.pop_all()
        self._writing = True

    def finish(self) -> None:
        """Sees to it that all rows are on disk, and says so."""
        if not self._writing or self._open.files is None:
            return
        self._writing = False
        with self._open.lock:
            with self._told("write client states"):
                if self._unwritten:
                    self._write_again()
                for leaf, file in enumerate(self._open.files):
                    self._check_size(leaf)
                    os.fsync(file)
                self._sign(finished=True)

    def read(self, leaf: int, numbers: Numbers, out: np.ndarray) -> None:
        touched = self._touched[numbers]
        if touched.any():
            self._check_size(leaf)
        for i, (number, there) in enumerate(
            zip(numbers.tolist(), touched.tolist(), strict=True)
        ):
            if number in self._unwritten:
                out[i] = self._unwritten[number][leaf]
            else:
                out[i] = self._maps[leaf][number] if there else self._initial[leaf]

    def write(self, numbers: Numbers, rows: Rows) -> None:
        with self._told("write client states"):
            try:
                self._write(numbers, rows)
            except OSError:
                for i, number in enumerate(numbers.tolist()):
                    self._unwritten[number] = [np.array(x[i]) for x in rows]
                raise
            for number in numbers.tolist() if self._unwritten else ():
                self._unwritten.pop(number, None)
            if self._unwritten:
                self._write_again()

    def clear(self, initial: Rows) -> None:
        self._initial = list(initial)
        self._touched[:] = False
        self._unwritten.clear()
        if self._open.files is not None:
            with self._told("write client states"):
                self._make()

    def copy(self) -> "DiskPlace":
        raise ValueError(
            f"The clients' states lie {self.name}, where a round changes them in "
            "place, and `algorithm.round` returns a new state beside the old one. Run "
            "`equifed.rounds`, or make the state with `client_states='host'`."
        )

    def _write(self, numbers: Numbers, rows: Rows) -> None:
        assert self._open.files is not None, "It was not begun."
        for leaf, (file, x) in enumerate(zip(self._open.files, rows, strict=True)):
            self._check_size(leaf)
            data = as_bytes(x)
            size = data.shape[1]
            for number, row in zip(numbers.tolist(), data, strict=True):
                _write_all(file, memoryview(row), number * size)
        self._touched[numbers] = True

    def _write_again(self) -> None:
        numbers = np.array(sorted(self._unwritten))
        kept = [self._unwritten[i] for i in numbers.tolist()]
        self._write(numbers, [np.stack(x) for x in zip(*kept, strict=True)])
        self._unwritten.clear()

    def _make(self) -> None:
        """Files without a row."""
        self._open.close_files()
        self._open.files = files = []
        self._maps = []
        for i, x in enumerate(self._initial):
            path = self._path(i)
            # A file that is there goes first: truncated, it would keep its room.
            path.unlink(missing_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))
            files.append(file)
            shape = (self._num_clients, *x.shape)
            os.ftruncate(file, self._size(i))
            empty = x.size == 0  # Nothing cannot be mapped.
            self._maps.append(
                np.empty(shape, x.dtype)
                if empty
                else np.memmap(path, x.dtype, "r", shape=shape)
            )

    def _check_size(self, leaf: int) -> None:
        """Refuses a file that somebody made shorter: to read past its end would end
        the program, and to write there would leave zeros in between."""
        assert self._open.files is not None, "It was not begun."
        size, wanted = os.fstat(self._open.files[leaf]).st_size, self._size(leaf)
        if size != wanted:
            raise OSError(
                f"`{self._path(leaf)}` is damaged: it has {size} bytes instead of "
                f"{wanted}, as something else changed it. Its rows are lost. Go on "
                "from a checkpoint, or begin anew, with another folder as "
                "`client_states`."
            )

    def _path(self, leaf: int) -> pathlib.Path:
        return self.folder / f"{leaf:05d}.rows"

    def _size(self, leaf: int) -> int:
        return self._num_clients * self._initial[leaf].nbytes

    def _sign(self, *, finished: bool) -> None:
        path = self.folder / INDEX
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(self._about | {"finished": finished}), "utf-8")
        os.replace(aside, path)

    @contextlib.contextmanager
    def _told(self, task: str):
        """One sentence on what the operating system said."""
        try:
            yield
        except OSError as error:
            if error.errno is None:
                raise  # It is one of ours.
            sentence = type(error)(
                f"Could not {task} in `{self.folder}`: {os.strerror(error.errno)}. The "
                "state that was reached is whole, with those rows in memory, and "
                "checkpoints are intact. Make room, or give another folder as "
                "`client_states`."
            )
            sentence.errno = error.errno
            raise sentence from error


class _Open:
    """What is to be closed in the end."""

    def __init__(self):
        self.files: list[int] | None = None
        self.lock = contextlib.ExitStack()

    def close_files(self) -> None:
        files, self.files = self.files, None
        for file in files or ():
            os.close(file)

    def close(self) -> None:
        self.close_files()
        self.lock.close()


def _write_all(file: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(file, data, offset)
        data, offset = data[done:], offset + done
