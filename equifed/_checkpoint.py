"""Saving a training so that it can be killed at any moment.

A checkpoint is one directory, named by its round:

    00000030/
        state/          the array leaves of the state, written by Orbax
        leaves.json     what they are: path, dtype and shape of each
        history.json    the metrics of the rounds so far
        manifest.json   the size and checksum of every other file

It is written under another name and renamed when all of it is on disk, so that a
directory with a round's name was complete once; the manifest says whether it still is.
What is not an array (functions, sizes) is not saved: it comes from the state that the
program builds anyway, whose leaves must be the checkpoint's.
"""

import json
import os
import pathlib
import re
import shutil
import warnings
import zlib
from itertools import zip_longest
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree


State = TypeVar("State")

_NAME = re.compile(r"(\d{8,})(?:-(\d+))?")  # the round, and which attempt at saving it
_TEMPORARY = ".unfinished"


class Checkpointer:
    """Saves a training every few rounds, and finds where to go on.

    Give one to [`equifed.train`][] and run the program again after it was killed: it
    goes on from the newest complete checkpoint, to the same bits.

    !!! example

        ```python
        checkpointer = eqf.Checkpointer("runs/fedavg", every=50)
        solution = eqf.train(..., checkpointer=checkpointer)
        ```
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, every: int = 10, keep: int = 3
    ):
        """**Arguments:**

        - `directory`: where the checkpoints of this one training lie. It is made if
            there is none.
        - `every`: how many rounds from one checkpoint to the next.
        - `keep`: how many checkpoints to keep; older ones are deleted, after the newer
            one is complete.
        """
        if every < 1:
            raise ValueError(f"`every` must be at least 1, got {every}.")
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1, got {keep}.")
        self.directory = pathlib.Path(directory).absolute()
        self.every = every
        self.keep = keep

    def should_save(self, round: int) -> bool:
        """Whether a checkpoint is due after `round` rounds."""
        return round > 0 and round % self.every == 0

    def save(
        self,
        round: int,
        state: PyTree,
        history: list[dict[str, Any]],
        *,
        algorithm: str = "",
    ) -> None:
        """Saves a checkpoint. It is complete when this returns.

        **Arguments:**

        - `round`: how many rounds have been run.
        - `state`: its array leaves are saved, to the bit.
        - `history`: plain numbers by name, for each round so far.
        - `algorithm`: the algorithm's name, if `restore` is to check it.

        **Raises:**

        `ValueError` if the directory holds an intact checkpoint of a later round: it
        belongs to another training.
        """
        for later in self._checkpoints():
            if _round_of(later) > round and _damage(later) is None:
                raise ValueError(
                    f"Cannot save round {round}: `{later}` is of a later round. "
                    "Restore it and go on from there, or give another directory."
                )
        temporary = self.directory / _TEMPORARY
        if jax.process_index() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        _barrier("begun")
        leaves = _array_leaves(state)
        _write_arrays(temporary / "state", list(leaves.values()))
        _barrier("written")
        if jax.process_index() == 0:
            about = {
                "algorithm": algorithm,
                "round": int(round),
                "leaves": [[path, *_describe(x)] for path, x in leaves.items()],
            }
            _write_json(temporary / "leaves.json", about)
            _write_json(temporary / "history.json", history)
            _write_json(temporary / "manifest.json", {"files": _sync(temporary)})
            _sync(temporary)
            temporary.rename(self._unused_name(round))
            _sync_directory(self.directory)
            self._delete_old(round)
        _barrier("complete")

    def restore(
        self, like: State, *, algorithm: str = ""
    ) -> tuple[int, State, list[dict[str, Any]]] | None:
        """Reads the newest checkpoint that is complete.

        One that is damaged is passed over, with a warning, for the one before.

        **Arguments:**

        - `like`: a state of the same algorithm and model, such as the one that training
            started from. Its arrays say where to put the restored ones; its other
            leaves are taken over.
        - `algorithm`: the algorithm's name, to be checked against the saved one.

        **Returns:**

        The number of rounds that were run, the state after them, and their history; or
        `None` if there is no checkpoint.

        **Raises:**

        `ValueError` if the checkpoint is of another algorithm or model.
        """
        for path in reversed(self._checkpoints()):
            damage = _damage(path)
            if damage is None:
                about = json.loads((path / "leaves.json").read_text("utf-8"))
                leaves = _array_leaves(like)
                _check_same(path, about, algorithm, leaves)
                arrays = _read_arrays(path / "state", list(leaves.values()))
                state = _replace_arrays(like, arrays)
                history = json.loads((path / "history.json").read_text("utf-8"))
                return about["round"], state, history
            warnings.warn(
                f"The checkpoint `{path}` is damaged: {damage}. It is passed over for "
                "the one before it.",
                stacklevel=2,
            )
        return None

    def _checkpoints(self) -> list[pathlib.Path]:
        """From the oldest to the newest, damaged ones included."""
        if not self.directory.is_dir():
            return []
        return sorted(
            (x for x in self.directory.iterdir() if _NAME.fullmatch(x.name)),
            key=_order_of,
        )

    def _unused_name(self, round: int) -> pathlib.Path:
        # Nothing can be renamed onto a directory that is not empty, so a round that is
        # saved again lies beside the old one until that is deleted.
        orders = [_order_of(path) for path in self._checkpoints()]
        attempts = [attempt for other, attempt in orders if other == round]
        suffix = f"-{max(attempts) + 1}" if attempts else ""
        return self.directory / f"{round:08d}{suffix}"

    def _delete_old(self, round: int) -> None:
        checkpoints = self._checkpoints()
        newest = [x for x in checkpoints if _round_of(x) == round][-1]
        # What is later than the one just saved is damaged, or `save` had not begun.
        before = [x for x in checkpoints if _round_of(x) < round]
        kept = [newest, *before[::-1][: self.keep - 1]]
        for path in checkpoints:
            if path not in kept:
                # Renamed first, lest a kill leave half of it under a round's name.
                doomed = path.rename(self.directory / _TEMPORARY)
                shutil.rmtree(doomed)


def _order_of(path: pathlib.Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def _round_of(path: pathlib.Path) -> int:
    return _order_of(path)[0]


def _array_leaves(tree: PyTree) -> dict[str, Any]:
    leaves = jtu.tree_leaves_with_path(tree)
    return {jtu.keystr(path): x for path, x in leaves if _is_array(x)}


def _replace_arrays(tree: PyTree, arrays: list[Any]) -> PyTree:
    remaining = iter(arrays)
    return jtu.tree_map(lambda x: next(remaining) if _is_array(x) else x, tree)


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray)


def _describe(x: Any) -> tuple[str, list[int]]:
    return str(x.dtype), list(x.shape)


def _check_same(
    path: pathlib.Path, about: dict[str, Any], algorithm: str, leaves: dict[str, Any]
) -> None:
    other = f"The checkpoint `{path}` is of another algorithm or model"
    remedy = (
        "Give the algorithm and the model that it was made with, or another directory."
    )
    if algorithm and about["algorithm"] and algorithm != about["algorithm"]:
        raise ValueError(
            f"{other}: it is of `{about['algorithm']}`, not `{algorithm}`. {remedy}"
        )
    saved = {where: (dtype, shape) for where, dtype, shape in about["leaves"]}
    for has, expected in zip_longest(saved, leaves):
        if has != expected:
            if expected is not None and expected not in saved:
                raise ValueError(f"{other}: it has no `{expected}`. {remedy}")
            raise ValueError(f"{other}: it has `{has}`, which is not known. {remedy}")
        if saved[has] != _describe(leaves[has]):
            raise ValueError(
                f"{other}: its `{has}` is {_short(*saved[has])}, not "
                f"{_short(*_describe(leaves[has]))}. {remedy}"
            )


def _short(dtype: str, shape: list[int]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def _data(x: Any) -> Any:
    """What Orbax is given for an array leaf: numbers instead of keys, and on the host
    what was not put on a device on purpose (restored there, JAX would not move it).
    """
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = jr.key_data(x)
    else:
        data = x
    return data if isinstance(x, jax.Array) and x.committed else np.asarray(data)


def _write_arrays(path: pathlib.Path, leaves: list[Any]) -> None:
    import orbax.checkpoint as ocp  # slow to import

    arrays = _numbered(leaves)
    if arrays:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            checkpointer.save(path, args=ocp.args.StandardSave(arrays))


def _read_arrays(path: pathlib.Path, likes: list[Any]) -> list[Any]:
    import orbax.checkpoint as ocp

    targets = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        if isinstance(x, jax.Array)
        else x
        for name, x in _numbered(likes).items()
    }
    read: dict[str, Any] = {}
    if targets:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            read = checkpointer.restore(path, args=ocp.args.StandardRestore(targets))
    restored = []
    for i, like in enumerate(likes):
        x = read.get(_number(i), like)
        if x is not like and isinstance(like, jax.Array):
            x = jnp.asarray(x)
            if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
                x = jr.wrap_key_data(x, impl=jr.key_impl(like))
        restored.append(x)
    return restored


def _numbered(leaves: list[Any]) -> dict[str, Any]:
    # Orbax refuses empty arrays. Nothing is lost: `leaves.json` has their shapes.
    return {_number(i): _data(x) for i, x in enumerate(leaves) if x.size > 0}


def _number(i: int) -> str:
    return f"{i:05d}"


def _write_json(path: pathlib.Path, content: Any) -> None:
    # `default` turns NumPy's numbers into Python's.
    path.write_text(json.dumps(content, default=lambda x: x.tolist()), "utf-8")


def _checksum(path: pathlib.Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _sync(directory: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Sees to it that all of a directory is on disk; returns what is in it."""
    files = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            path = pathlib.Path(parent, name)
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
            relative = path.relative_to(directory).as_posix()
            files[relative] = (path.stat().st_size, _checksum(path))
        _sync_directory(pathlib.Path(parent))
    return files


def _sync_directory(directory: pathlib.Path) -> None:
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _damage(path: pathlib.Path) -> str | None:
    """What is wrong with a checkpoint, or `None`."""
    try:
        text = (path / "manifest.json").read_text("utf-8")
        files = json.loads(text)["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its `manifest.json` cannot be read"
    for name, (size, checksum) in files:
        file = path / name
        if not file.is_file():
            return f"its `{name}` is missing"
        if file.stat().st_size != size:
            return f"its `{name}` has {file.stat().st_size} bytes instead of {size}"
        if _checksum(file) != checksum:
            return f"its `{name}` is not what was written"
    return None


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"equifed_checkpoint_{name}")
