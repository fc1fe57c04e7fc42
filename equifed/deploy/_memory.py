"""What a client keeps between the messages that it is sent.

Each message may be answered by a new process, so all is written down: what the client
keeps after a round, under the round's number, and between two passes of one round what
it has in them. The server says which round's to go on from. So a round that the server
rejected, did not hear of or had forgotten when it was killed changes nothing; what no
server can ask for any more is deleted.
"""

import abc
import os
import pathlib
import zipfile

import numpy as np

from ._arrays import Wire


NOW = "now"
_ROUND = "round-"


class AbstractMemory(abc.ABC):
    """Named sets of arrays, each written as one."""

    @abc.abstractmethod
    def load(self, name: str) -> Wire | None:
        """The arrays of this name; `None` if there are none."""

    @abc.abstractmethod
    def save(self, name: str, arrays: Wire) -> None:
        """Writes them, over those of the same name."""

    @abc.abstractmethod
    def drop(self, name: str) -> None:
        """Deletes them."""

    @abc.abstractmethod
    def names(self) -> list[str]:
        """All that there are."""


class FolderMemory(AbstractMemory):
    """Files in a folder: what is read is a whole file, whenever a process ended."""

    def __init__(self, folder: str | os.PathLike[str]):
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def load(self, name: str) -> Wire | None:
        path = self._folder / f"{name}.npz"
        if not path.exists():
            return None
        try:
            with path.open("rb") as file:
                return dict(np.load(file, allow_pickle=False))
        except (EOFError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"What this client kept, `{path}`, is broken: {error}. Put back a copy "
                "of it; without one the client has no part in this training any more."
            ) from error

    def save(self, name: str, arrays: Wire) -> None:
        unfinished = self._folder / f"{name}.unfinished"
        with unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._folder / f"{name}.npz")

    def drop(self, name: str) -> None:
        (self._folder / f"{name}.npz").unlink(missing_ok=True)

    def names(self) -> list[str]:
        return [path.stem for path in self._folder.glob("*.npz")]


class DictMemory(AbstractMemory):
    """In a dictionary, as long as that is there."""

    def __init__(self):
        self._all: dict[str, Wire] = {}

    def load(self, name: str) -> Wire | None:
        return self._all.get(name)

    def save(self, name: str, arrays: Wire) -> None:
        self._all[name] = dict(arrays)

    def drop(self, name: str) -> None:
        self._all.pop(name, None)

    def names(self) -> list[str]:
        return list(self._all)


def name_of(round: int) -> str:
    return f"{_ROUND}{round}"


def forget_before(memory: AbstractMemory, round: int) -> None:
    """Deletes what was kept after rounds before this one."""
    for name in memory.names():
        number = name.removeprefix(_ROUND)
        if number.isdecimal() and int(number) < round:
            memory.drop(name)
