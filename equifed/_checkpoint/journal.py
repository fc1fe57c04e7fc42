"""What all clients keep, in a checkpoint: the rows written since the last one.

A large store is not written whole each time. A checkpoint has segments, each with rows
of some clients, of which the last that has a client's row counts; who is in none has
what every client begins with:

    clients/
        index.json      where in the state they are, and the segments, oldest first
        initial/        what a client begins with, a file for each array
        0000000120/     a segment: the numbers of its clients, a file for each array

Segments of the checkpoint before are linked, not copied: the files of a checkpoint are
all in its folder, and go when the last folder goes that has them. A new segment takes
in those before it that are at most twice as long. So there are few, together they are
at most about twice as long as what was ever written, and a row is written again a few
times in all.
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .._store import Store
from .._store.store import as_bytes, chunks, Numbers


FOLDER = "clients"
_INDEX = "index.json"
_NUMBERS = "numbers"
_FILE = "{:05d}"


class Segment(NamedTuple):
    name: str
    count: int


class Journal(NamedTuple):
    """What a store knows of the last checkpoint in a directory."""

    path: pathlib.Path
    identity: tuple[int, ...]
    segments: list[Segment]
    writes: int
    files: dict[str, tuple[int, int]]
    """The size and the checksum of each file of the segments."""


def write_rows(
    folder: pathlib.Path, store: Store, names: list[str], last: Journal | None
) -> Journal:
    """Writes what changed since the last checkpoint, and links the rest.

    **Arguments:**

    - `folder`: of the checkpoint, which is not complete yet.
    - `names`: where in the state the arrays are.

    **Returns:**

    What is known then; of its files those that were linked.
    """
    to = folder / FOLDER
    (to / "initial").mkdir(parents=True)
    for i, x in enumerate(store.initial):
        (to / "initial" / _FILE.format(i)).write_bytes(x.tobytes())
    segments, numbers, linked = [], store.since(0), {}
    if last is not None and _linked(last, to, kept := _kept(last, store)):
        segments, numbers = kept, store.since(last.writes)
        linked = {
            name: last.files[name]
            for segment in segments
            for name in last.files
            if name.startswith(f"{FOLDER}/{segment.name}/")
        }
        if len(numbers) > 0:
            taken = last.segments[len(kept) :]
            numbers = np.unique(np.concatenate([numbers, *_read_all(last, taken)]))
    if len(numbers) > 0:
        name = f"{store.writes:010d}"
        _write_segment(to / name, store, numbers)
        segments = [*segments, Segment(name, len(numbers))]
    about = {"leaves": names, "writes": store.writes, "segments": segments}
    (to / _INDEX).write_text(json.dumps(about), "utf-8")
    return Journal(folder, (), segments, store.writes, linked)


def _kept(last: Journal, store: Store) -> list[Segment]:
    """The segments that a new one does not take in."""
    kept, size = list(last.segments), len(store.since(last.writes))
    while size > 0 and kept and kept[-1].count <= 2 * size:
        size += kept.pop().count
    return kept


def _linked(last: Journal, to: pathlib.Path, segments: list[Segment]) -> bool:
    """Links the files of the last checkpoint, if they are what was written."""
    if not is_there(last):
        return False
    for segment in segments:
        source = last.path / FOLDER / segment.name
        (to / segment.name).mkdir()
        for file in source.iterdir():
            known = last.files.get(f"{FOLDER}/{segment.name}/{file.name}")
            if known is None or file.stat().st_size != known[0]:
                _remove(to, segments)
                return False
            try:
                os.link(file, to / segment.name / file.name)
            except OSError:  # A filesystem without links.
                shutil.copyfile(file, to / segment.name / file.name)
    return True


def _remove(to: pathlib.Path, segments: list[Segment]) -> None:
    for segment in segments:
        shutil.rmtree(to / segment.name, ignore_errors=True)


def _read_all(last: Journal, segments: list[Segment]) -> list[Numbers]:
    folders = (last.path / FOLDER / segment.name for segment in segments)
    return [np.fromfile(folder / _NUMBERS, np.int64) for folder in folders]


def _write_segment(folder: pathlib.Path, store: Store, numbers: Numbers) -> None:
    folder.mkdir()
    (folder / _NUMBERS).write_bytes(numbers.astype(np.int64).tobytes())
    for i, like in enumerate(store.initial):
        with open(folder / _FILE.format(i), "wb") as file:
            for part in chunks(numbers, like.nbytes):
                file.write(as_bytes(store.read(i, part)).data)


def rows_in(folder: pathlib.Path) -> list[str]:
    """The names of the arrays whose rows a checkpoint has here."""
    index = folder / FOLDER / _INDEX
    return json.loads(index.read_text("utf-8"))["leaves"] if index.is_file() else []


def read_rows(folder: pathlib.Path, store: Store) -> Journal:
    """Gives a store the rows of a checkpoint."""
    initial, about, likes = _begin(folder, store.initial)
    store.place.begin(anew=False)
    store.clear(initial)
    for numbers, rows in _newest(folder, about, likes, store.num_clients):
        store.write(numbers, rows)
    store.writes = about["writes"]
    store.written[store.written > 0] = store.writes
    segments = [Segment(*x) for x in about["segments"]]
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    files = {name: (size, crc) for name, (size, crc) in manifest["files"].items()}
    return Journal(folder, identity_of(folder), segments, store.writes, files)


def read_whole(
    folder: pathlib.Path, shapes: list[tuple[tuple[int, ...], Any]]
) -> list[np.ndarray]:
    """The same as whole arrays.

    **Arguments:**

    - `shapes`: the shape and the dtype of each.
    """
    likes = [np.empty(shape[1:], dtype) for shape, dtype in shapes]
    initial, about, likes = _begin(folder, likes)
    num_clients = shapes[0][0][0]
    arrays = [np.broadcast_to(x, (num_clients, *x.shape)).copy() for x in initial]
    for numbers, rows in _newest(folder, about, likes, num_clients):
        for x, new in zip(arrays, rows, strict=True):
            x[numbers] = new
    return arrays


def _begin(
    folder: pathlib.Path, likes: list[np.ndarray]
) -> tuple[list[np.ndarray], dict[str, Any], list[np.ndarray]]:
    about = json.loads((folder / FOLDER / _INDEX).read_text("utf-8"))
    initial = [
        np.fromfile(folder / FOLDER / "initial" / _FILE.format(i), x.dtype)
        for i, x in enumerate(likes)
    ]
    shaped = [x.reshape(y.shape) for x, y in zip(initial, likes, strict=True)]
    return shaped, about, likes


def _newest(
    folder: pathlib.Path,
    about: dict[str, Any],
    likes: list[np.ndarray],
    num_clients: int,
) -> Iterator[tuple[Numbers, list[np.ndarray]]]:
    """Of each client that was ever written the newest rows, in parts."""
    row_bytes = sum(x.nbytes for x in likes)
    seen = np.zeros(num_clients, bool)
    for name, _ in reversed(about["segments"]):
        segment = folder / FOLDER / name
        numbers = np.fromfile(segment / _NUMBERS, np.int64)
        places = np.flatnonzero(~seen[numbers])
        seen[numbers] = True
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(open(segment / _FILE.format(i), "rb"))
                for i in range(len(likes))
            ]
            for part in chunks(places, row_bytes):
                rows = [_read(f, x, part) for f, x in zip(files, likes, strict=True)]
                yield numbers[part], rows


def _read(file: Any, like: np.ndarray, places: Numbers) -> np.ndarray:
    out = np.empty((len(places), *like.shape), like.dtype)
    data = as_bytes(out)
    for row, place in zip(data, places.tolist(), strict=True):
        file.seek(place * like.nbytes)
        file.readinto(memoryview(row))
    return out


def identity_of(folder: pathlib.Path) -> tuple[int, ...]:
    """What tells one checkpoint from another of its name."""
    about = (folder / "manifest.json").stat()
    return about.st_ino, about.st_mtime_ns, about.st_size


def is_there(last: Journal) -> bool:
    try:
        return identity_of(last.path) == last.identity
    except OSError:
        return False
