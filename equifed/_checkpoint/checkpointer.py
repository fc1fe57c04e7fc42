"""When to save, what to keep, and which checkpoint to go on from."""

import json
import os
import pathlib
import re
import shutil
import warnings
from typing import Any, TypeVar

import jax
from jaxtyping import PyTree

from .arrays import read_arrays, write_arrays
from .disk import damage, sync, sync_directory, write_json
from .leaves import array_leaves, check_same, describe, replace_arrays


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
            if _round_of(later) > round and damage(later) is None:
                raise ValueError(
                    f"Cannot save round {round}: `{later}` is of a later round. "
                    "Restore it and go on from there, or give another directory."
                )
        temporary = self.directory / _TEMPORARY
        if jax.process_index() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        _barrier("begun")
        leaves = array_leaves(state)
        write_arrays(temporary / "state", list(leaves.values()))
        _barrier("written")
        if jax.process_index() == 0:
            about = {
                "algorithm": algorithm,
                "round": int(round),
                "leaves": [[path, *describe(x)] for path, x in leaves.items()],
            }
            write_json(temporary / "leaves.json", about)
            write_json(temporary / "history.json", history)
            write_json(temporary / "manifest.json", {"files": sync(temporary)})
            sync(temporary)
            temporary.rename(self._unused_name(round))
            sync_directory(self.directory)
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
            found = damage(path)
            if found is None:
                about = json.loads((path / "leaves.json").read_text("utf-8"))
                leaves = array_leaves(like)
                check_same(path, about, algorithm, leaves)
                arrays = read_arrays(path / "state", list(leaves.values()))
                state = replace_arrays(like, arrays)
                history = json.loads((path / "history.json").read_text("utf-8"))
                return about["round"], state, history
            warnings.warn(
                f"The checkpoint `{path}` is damaged: {found}. It is passed over for "
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


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"equifed_checkpoint_{name}")
