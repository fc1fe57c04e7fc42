"""Whether a folder may be written to: what it was left with, and by whom."""

import contextlib
import errno
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any


INDEX = "client-states.json"
_LOCK = "lock"


def check_left(
    folder: pathlib.Path, about: dict[str, Any], *, beginning: bool = False
) -> None:
    """Refuses a folder that holds something else: other files, or the client states of
    another training.

    **Arguments:**

    - `about`: what it is to be of.
    - `beginning`: whether rows are to be written, those there being of no use.
    """
    for path in (folder, *folder.parents):
        if os.path.lexists(path):
            if not path.is_dir():
                raise NotADirectoryError(
                    f"`client_states` cannot lie in `{folder}`: `{path}` is no folder. "
                    "Move that away, or give another one."
                )
            break
    if not folder.is_dir():
        return
    other = "Give another folder as `client_states`, or move this one away."
    index = folder / INDEX
    if not index.is_file():
        if {x.name for x in folder.iterdir()} - {_LOCK}:
            raise FileExistsError(
                f"`client_states` needs a folder of its own, and `{folder}` holds "
                f"other things. {other}"
            )
        return
    try:
        left = json.loads(index.read_text("utf-8"))
        mine = left["equifed"] == about["equifed"]
        clients, leaves = left["clients"], left["leaves"]
    except (ValueError, KeyError, TypeError):
        mine, clients, leaves, left = False, 0, [], {}
    if not mine:
        raise FileExistsError(
            f"`{index}` is not what a training left there: it is damaged, or of "
            f"another program. {other}"
        )
    if clients != about["clients"]:
        raise ValueError(
            f"`{folder}` holds the states of {clients} clients, but there are "
            f"{about['clients']}. {other}"
        )
    if leaves != about["leaves"]:
        raise ValueError(
            f"`{folder}` holds client states of another algorithm or model: "
            f"{_difference(leaves, about['leaves'])}. {other}"
        )
    if beginning and left.get("finished"):
        raise FileExistsError(
            f"`{folder}` holds the client states of a training that came to its end, "
            f"which would be lost. {other} (A `checkpointer` goes on from there.)"
        )


def _difference(left: list[Any], wanted: list[Any]) -> str:
    for old, new in zip(left, wanted, strict=False):
        if old != new:
            (name, dtype, shape), (_, to, size) = old, new
            if old[0] != new[0]:
                return f"it has `{name}`, which is not known"
            return f"its `{name}` is {dtype}{shape}, not {to}{size}"
    return f"it has {len(left)} arrays, not {len(wanted)}"


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """One training at a time writes to a folder. The lock is the operating system's,
    and ends with the program."""
    if os.name != "posix":
        yield
        return
    import fcntl

    file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise BlockingIOError(
                    f"`{folder}` is in use: another training keeps its client states "
                    "there. Give each training a folder of its own."
                ) from None
        yield
    finally:
        os.close(file)
