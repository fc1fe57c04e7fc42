"""When to save, what to keep, and which checkpoint to go on from."""

import json
import os
import pathlib
import re
import shutil
from typing import Any, TypeVar

import jax
from jaxtyping import PyTree

from .._processes import any_process, told, wait_for_all
from .._warn import warn
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

    Where several processes share a training (`jax.distributed`), each of them calls
    `save` and `restore`, with the same directory on a filesystem that they share. They
    wait for one another: a checkpoint is complete for all or for none, and all go on
    from the one that process 0 chooses.

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
        belongs to another training; or if some process does not see the directory.
        """
        first = jax.process_index() == 0
        later = told(self._later_than(round) if first else None)
        if later is not None:
            raise ValueError(
                f"Cannot save round {round}: `{self.directory / later}` is of a later "
                "round. Restore it and go on from there, or give another directory."
            )
        temporary = self.directory / _TEMPORARY
        if first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        wait_for_all()
        _check_shared(temporary)
        leaves = array_leaves(state)
        write_arrays(temporary / "state", list(leaves.values()))
        wait_for_all()  # They have written.
        if first:
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
        wait_for_all()  # It is complete.

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

        `ValueError` if the checkpoint is of another algorithm or model, or if some
        process does not see it.
        """
        name = told(self._newest() if jax.process_index() == 0 else None)
        if name is None:
            return None
        path = self.directory / name
        _check_shared(path)
        about = json.loads((path / "leaves.json").read_text("utf-8"))
        leaves = array_leaves(like)
        check_same(path, about, algorithm, leaves)
        arrays = read_arrays(path / "state", list(leaves.values()))
        state = replace_arrays(like, arrays)
        history = json.loads((path / "history.json").read_text("utf-8"))
        return about["round"], state, history

    def _newest(self) -> str | None:
        """The name of the newest checkpoint that is intact."""
        for path in reversed(self._checkpoints()):
            found = damage(path)
            if found is None:
                return path.name
            warn(
                f"The checkpoint `{path}` is damaged: {found}. It is passed over for "
                "the one before it."
            )
        return None

    def _later_than(self, round: int) -> str | None:
        """The name of an intact checkpoint of a later round."""
        for path in self._checkpoints():
            if _round_of(path) > round and damage(path) is None:
                return path.name
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


def _check_shared(directory: pathlib.Path) -> None:
    if any_process(value=not directory.is_dir()):
        raise ValueError(
            f"Process 0 sees `{directory}`, but another one does not. Give all "
            "processes the same directory, on a filesystem that they share."
        )
