"""The array leaves of a state, in a checkpoint and back: what all clients keep as a
journal, if it lies elsewhere than on the device, and all else by Orbax."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._store import ClientRows, Store, store_of
from .arrays import read_arrays, write_arrays
from .disk import sync, sync_directory, write_json
from .folder import delete_old, MANIFEST, manifest_of, unused_name
from .journal import identity_of, Journal, read_rows, read_whole, rows_in, write_rows


ARRAYS = "state"


class Written:
    """What was written to a checkpoint that is not complete yet."""

    def __init__(self, store: Store | None, journal: Journal | None):
        self._store, self._journal = store, journal

    @property
    def known(self) -> dict[str, tuple[int, int]]:
        """The size and the checksum of files that were there before."""
        return {} if self._journal is None else self._journal.files

    def complete(self, path: pathlib.Path, files: dict[str, tuple[int, int]]) -> None:
        """It has its name now, and the next one need not write what it has."""
        if self._store is not None and self._journal is not None:
            self._store.saved[path.parent] = self._journal._replace(
                path=path, identity=identity_of(path), files=files
            )


def write_leaves(
    folder: pathlib.Path, directory: pathlib.Path, leaves: dict[str, Any]
) -> Written:
    """Writes them to the folder of a checkpoint in a directory."""
    kept = {name: x for name, x in leaves.items() if isinstance(x, ClientRows)}
    write_arrays(folder / ARRAYS, list(leaves.values()))
    store = store_of(list(kept.values()))
    if store is None:
        return Written(None, None)
    if len(kept) != len(store.initial):
        raise ValueError(
            f"What each client keeps is {len(store.initial)} arrays, but the state to "
            f"be saved has {len(kept)} of them. Save the whole state."
        )
    last = store.saved.get(directory)
    return Written(store, write_rows(folder, store, list(kept), last))


def name_checkpoint(
    directory: pathlib.Path,
    unfinished: pathlib.Path,
    round: int,
    written: Written,
    keep: int,
) -> None:
    """Gives what was written its name: last, and once all of it is on disk, so that a
    kill leaves no checkpoint that is not complete. Older ones go, but for some."""
    name = unused_name(directory, round)
    files = sync(unfinished, written.known)
    write_json(unfinished / MANIFEST, manifest_of(name, round, files))
    sync(unfinished, files)
    unfinished.rename(directory / name)
    sync_directory(directory)
    written.complete(directory / name, files)
    delete_old(directory, name, keep)


def read_leaves(path: pathlib.Path, likes: dict[str, Any]) -> list[Any]:
    """Reads them from a checkpoint, to where those of a state lie."""
    store = store_of([x for x in likes.values() if isinstance(x, ClientRows)])
    names = rows_in(path)
    if not names:
        targets = [
            np.empty(x.shape, x.dtype) if isinstance(x, ClientRows) else x
            for x in likes.values()
        ]
        read = read_arrays(path / ARRAYS, targets)
        if store is not None:
            store.place.begin(anew=False)
            store.clear(store.initial)
            pairs = list(zip(likes.values(), read, strict=True))
            store.fill([x for like, x in pairs if isinstance(like, ClientRows)])
            read = [x if not isinstance(y, ClientRows) else y for y, x in pairs]
        return read
    theirs = [i for i, name in enumerate(likes) if name in names]
    others = [None if i in theirs else x for i, x in enumerate(likes.values())]
    read = read_arrays(path / ARRAYS, others)
    rows = list(likes.values())
    if store is not None:
        store.saved[path.parent] = read_rows(path, store)
    else:
        whole = read_whole(path, [(rows[i].shape, rows[i].dtype) for i in theirs])
        for i, x in zip(theirs, whole, strict=True):
            rows[i] = _like(x, rows[i])
    return [rows[i] if i in theirs else x for i, x in enumerate(read)]


def _like(x: np.ndarray, like: Any) -> Any:
    if not isinstance(like, jax.Array):
        return x
    return jax.device_put(x, like.sharding) if like.committed else jnp.asarray(x)
