"""What process 0 does in the directory for all processes, and the sentence that each of
them raises where it cannot be done."""

import pathlib
import shutil
from collections.abc import Callable

import jax

from .._processes import any_process, said_by_first
from .disk import cause, words_of
from .lock import UNFINISHED


def first_does(
    directory: pathlib.Path, task: str, action: Callable[[], str | None]
) -> str | None:
    """Has process 0 do something, and tells all what it returned.

    **Arguments:**

    - `task`: what it is, for an error: "save round 3".
    """
    result, error = None, None
    if jax.process_index() == 0:
        try:
            result = action()
        except Exception as raised:
            error = in_one_sentence(directory, task, raised)
    problem = said_by_first(None if error is None else str(error))
    if error is not None:
        raise error
    if problem is not None:
        raise OSError(problem)
    return said_by_first(result)


def in_one_sentence(directory: pathlib.Path, task: str, error: Exception) -> Exception:
    """Names the directory and what the operating system said, if it is to blame."""
    system = cause(error)
    if system is None or system.errno is None:
        return error
    # What a full disk has of this save is of no use, and takes room.
    shutil.rmtree(directory / UNFINISHED, ignore_errors=True)
    sentence = type(system)(
        f"Could not {task} in `{directory}`: {words_of(system)}. The checkpoints that "
        "lie there are intact."
    )
    sentence.errno = system.errno
    return sentence


def check_shared(directory: pathlib.Path) -> None:
    if any_process(value=not directory.is_dir()):
        raise ValueError(
            f"Process 0 sees `{directory}`, but another one does not. Give all "
            "processes the same directory, on a filesystem that they share."
        )
