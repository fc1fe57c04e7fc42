"""When to save, what to keep, and which checkpoint to go on from."""

import os
import pathlib
import shutil
import types
import weakref
from typing import Any, TypeVar

from jaxtyping import PRNGKeyArray, PyTree

from .._algorithm import AbstractAlgorithm
from .._check import check_choice, check_count, checked
from .._history import plain_row
from .._json import from_json
from .._processes import wait_for_all
from .._roles import Roles
from .._types import Model
from ..data import AbstractLoader
from .base import about_base, base_of, check_base, left_out
from .disk import check_history, check_path, write_json
from .fingerprint import check_fingerprint, Fingerprint, fingerprint as fingerprint_of
from .folder import later_than, LEAVES, newest_intact
from .for_all import check_shared, first_does, in_one_sentence
from .leaves import array_leaves, check_same, describe, replace_arrays
from .lock import begin_training, end_training, hold, let_go, UNFINISHED
from .state import name_checkpoint, read_leaves, write_leaves


State = TypeVar("State")


class Checkpointer:
    """Saves a training every few rounds, and finds where to go on.

    Give one to [`equifed.train`][] and run the program again after it was killed: it
    goes on from the newest complete checkpoint, to the same bits.

    A checkpoint keeps a fingerprint of the experiment: the key, the data, who takes
    part, the loss by its code, every number and part of the algorithm. To go on with
    another experiment is an error that lists what differs.

    The directory may hold other things, which are never touched. While a training runs
    it is locked: a second program that would save there gets an error. The lock ends
    with the program, also if that is killed.

    Where several processes share a training (`jax.distributed`), each of them calls
    `save` and `restore`, with the same directory on a filesystem that they share. They
    wait for one another: a checkpoint is complete for all or for none, and all go on
    from the one that process 0 chooses.

    !!! example

        ```python
        checkpointer = eqf.Checkpointer("runs/fedavg", every=50)
        solution = eqf.train(..., checkpointer=checkpointer)
        ```

        With [`equifed.rounds`][], in a `with` block, which holds the lock:

        ```python
        made_with = eqf.Checkpointer.fingerprint(algorithm, model, loader, key=key)
        with checkpointer:
            restored = checkpointer.restore(state, fingerprint=made_with)
            ...
            checkpointer.save(round, state, history, fingerprint=made_with)
        ```
    """

    @checked()
    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        every: int = 10,
        keep: int = 3,
        on_change: str = "error",
    ):
        """**Arguments:**

        - `directory`: where the checkpoints of this one training lie. It is made if
            there is none.
        - `every`: how many rounds from one checkpoint to the next.
        - `keep`: how many checkpoints to keep; older ones are deleted, after the newer
            one is complete.
        - `on_change`: what to do if a checkpoint is of another experiment, as far as
            its arrays allow to go on: `"error"`, or with `"warn"` go on with the new
            settings.
        """
        self.directory = pathlib.Path(directory).absolute()
        check_path(self.directory)
        self.every = check_count("every", every)
        self.keep = check_count("keep", keep)
        check_choice("on_change", on_change, ("error", "warn"))
        self.on_change = on_change
        self._entered = 0
        self._owner = object()
        weakref.finalize(self, let_go, self.directory, self._owner)

    @staticmethod
    @checked()
    def fingerprint(
        algorithm: AbstractAlgorithm,
        model: Model,
        loader: AbstractLoader,
        *,
        key: PRNGKeyArray,
        roles: Roles | None = None,
    ) -> Fingerprint:
        """What makes an experiment the same, for `save` and `restore`.

        How it is run (devices, blocks, what is resident), for how many rounds, and what
        is logged, evaluated and saved is not part of it. Functions are told by their
        code and by what they hold, so that another version of Python sees other ones.
        Client ids are hashed. Of an array larger than 16 MiB evenly spread rows are
        read, of the model a few numbers of each array; but all of what is frozen by
        `roles`, those of the training: on another base `restore` never goes on.

        **Returns:**

        A dictionary of short descriptions by name, which are numbers or text.
        """
        return fingerprint_of(algorithm, model, loader, key=key, roles=roles)

    @checked()
    def should_save(self, round: int) -> bool:
        """Whether a checkpoint is due after `round` rounds."""
        round = check_count("round", round, least=0)
        return round > 0 and round % self.every == 0

    def __enter__(self) -> "Checkpointer":
        """Locks the directory, and sees whether it can be written to."""

        def begin() -> None:
            hold(self.directory, self._owner)
            begin_training(self.directory, self._owner)

        first_does(self.directory, "begin to save", begin)
        self._entered += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._entered -= 1
        if self._entered == 0:
            end_training(self.directory)
            let_go(self.directory, self._owner)

    @checked()
    def save(
        self,
        round: int,
        state: PyTree,
        history: list,  # of dictionaries; `check_history` looks at every one
        *,
        algorithm: str = "",
        fingerprint: Fingerprint | None = None,
        roles: Roles | None = None,
    ) -> None:
        """Saves a checkpoint. It is complete when this returns.

        It locks the directory until the checkpointer is dropped, if no `with` block
        does.

        **Arguments:**

        - `round`: how many rounds have been run.
        - `state`: its array leaves are saved, to the bit.
        - `history`: numbers or arrays of them by name, for each round so far.
        - `algorithm`: the algorithm's name, if `restore` is to check it.
        - `fingerprint`: the experiment's, if `restore` is to check it.
        - `roles`: the training's, if what is frozen is to be left out. Its hash is
            saved, and `restore` takes it from the state that it is given.

        **Raises:**

        `ValueError` if the directory holds an intact checkpoint of a later round: it
        belongs to another training; or if some process does not see the directory.
        `OSError` if the directory is another program's, or cannot be written to; the
        earlier checkpoints are then intact.
        """
        round = check_count("round", round, least=0)
        check_history(history)
        task = f"save round {round}"
        first_does(self.directory, task, lambda: hold(self.directory, self._owner))
        later = first_does(
            self.directory, task, lambda: later_than(self.directory, round)
        )
        if later is not None:
            raise ValueError(
                f"Cannot save round {round}: `{self.directory / later}` is of a later "
                "round. Restore it and go on from there, or give another directory."
            )
        unfinished = self.directory / UNFINISHED
        first_does(self.directory, task, lambda: _make_afresh(unfinished))
        check_shared(unfinished)
        leaves = array_leaves(state)
        base = base_of(leaves, roles)
        leaves = {path: x for path, x in leaves.items() if path not in base}
        try:
            written = write_leaves(unfinished, self.directory, leaves)
        except Exception as error:
            raise in_one_sentence(self.directory, task, error) from error
        wait_for_all()  # They have written.
        about = {
            "algorithm": algorithm,
            "round": round,
            "leaves": [[path, *describe(x)] for path, x in leaves.items()],
            "base": about_base(base, roles, fingerprint),
        }

        def complete() -> None:
            write_json(unfinished / LEAVES, about)
            write_json(unfinished / "history.json", history)
            write_json(unfinished / "fingerprint.json", fingerprint, indent=1)
            name_checkpoint(self.directory, unfinished, round, written, self.keep)

        first_does(self.directory, task, complete)

    @checked()
    def restore(
        self,
        like: State,
        *,
        algorithm: str = "",
        fingerprint: Fingerprint | None = None,
    ) -> tuple[int, State, list[dict[str, Any]]] | None:
        """Reads the newest checkpoint that is complete. It changes no file.

        One that is damaged is passed over, with a warning, for the one before.

        **Arguments:**

        - `like`: a state of the same algorithm and model, such as the one that training
            started from. Its arrays say where to put the restored ones; its other
            leaves are taken over, and so is what is frozen and was left out. Its
            [`equifed.ClientRows`][] are written over.
        - `algorithm`: the algorithm's name, to be checked against the saved one.
        - `fingerprint`: the experiment's, to be checked against the saved one.

        **Returns:**

        The number of rounds that were run, the state after them, and their history; or
        `None` if there is no checkpoint.

        **Raises:**

        `ValueError` if the checkpoint is of another algorithm, model or experiment, or
        if some process does not see it.
        """
        name = first_does(
            self.directory,
            "read the checkpoints",
            lambda: newest_intact(self.directory),
        )
        if name is None:
            return None
        path = self.directory / name
        check_shared(path)
        about, history, made_with = (
            from_json((path / file).read_text("utf-8"))
            for file in (LEAVES, "history.json", "fingerprint.json")
        )
        everything = array_leaves(like)
        absent = set(left_out(about))
        leaves = {path: x for path, x in everything.items() if path not in absent}
        known = made_with is not None and fingerprint is not None
        # Fingerprints tell more of an algorithm than its name does. To go on with other
        # settings is of use only where the arrays allow it: those are compared first.
        check_same(path, about, "" if known else algorithm, leaves)
        problem = first_does(
            self.directory,
            "compare the fingerprints",
            lambda: check_fingerprint(path, made_with, fingerprint, self.on_change),
        )
        if problem is not None:
            raise ValueError(problem)
        check_base(path, about, everything)
        read = zip(leaves, read_leaves(path, leaves), strict=True)
        arrays = list((everything | dict(read)).values())
        rows = list(map(plain_row, history))
        return about["round"], replace_arrays(like, arrays), rows


def _make_afresh(folder: pathlib.Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what a killed program left
    folder.mkdir()
