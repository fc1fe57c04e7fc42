"""One program at a time writes to a directory of checkpoints.

What a running program needs there lies in a folder of our own, `.equifed`: a save that
is not complete, and the file that is locked. The lock is the operating system's, on
the open file, so that it ends with the program, however that ends, and a file that was
left behind locks nothing. Several objects of one program share it; two trainings do
not.
"""

import contextlib
import errno
import os
import pathlib
import platform
import shutil
import threading
from typing import Any

from .._warn import warn
from .disk import words_of


FOLDER = ".equifed"

UNFINISHED = f"{FOLDER}/unfinished"

_MARK = "equifed: "
_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)


class _Held:
    """A lock of this process, and for whom it is held."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self.owners: set[Any] = set()
        self.training: tuple[Any, int] | None = None


_held: dict[pathlib.Path, _Held] = {}


def hold(directory: pathlib.Path, owner: Any) -> None:
    """Takes the lock, if this process has not got it yet.

    **Raises:**

    `OSError` if another program has it, or the directory cannot be written to.
    """
    held = _held.get(directory)
    if held is not None and not _is_open_file(_file(directory), held.descriptor):
        # Somebody deleted the directory, and our file with it.
        del _held[directory]
        os.close(held.descriptor)
        held = None
    if held is None:
        held = _held[directory] = _Held(_take(directory))
    held.owners.add(owner)


def let_go(directory: pathlib.Path, owner: Any) -> None:
    """Gives the lock back once nobody in this process needs it."""
    held = _held.get(directory)
    if held is None or owner not in held.owners:
        return
    held.owners.remove(owner)
    if not held.owners:
        del _held[directory]
        with contextlib.suppress(OSError):
            _give(directory, held.descriptor)


def begin_training(directory: pathlib.Path, owner: Any) -> None:
    """Marks the directory as that of the training which this thread runs."""
    held, who = _held[directory], (owner, threading.get_ident())
    if held.training not in (None, who):
        raise BlockingIOError(
            f"This program is already training in `{directory}`. Give each training a "
            "directory of its own."
        )
    held.training = who


def end_training(directory: pathlib.Path) -> None:
    if directory in _held:
        _held[directory].training = None


def _file(directory: pathlib.Path) -> pathlib.Path:
    return directory / FOLDER / "lock"


def _take(directory: pathlib.Path) -> int:
    path = _file(directory)
    while True:
        check_directory(directory)
        if not os.path.lexists(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        _check_ours(path)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        try:
            descriptor = os.open(path, flags, 0o666)
        except FileNotFoundError:
            continue  # The program that had it took the folder away.
        try:
            _lock(directory, descriptor)
            # It may be a file that the last program has deleted since we opened it.
            if _is_open_file(path, descriptor):
                _sign(path, descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _give(directory: pathlib.Path, descriptor: int) -> None:
    path = _file(directory)
    try:
        if os.name == "posix" and _is_open_file(path, descriptor):
            shutil.rmtree(directory / UNFINISHED, ignore_errors=True)
            # The file goes last: it is what tells that the folder is ours.
            if os.listdir(path.parent) == [path.name]:
                path.unlink()
                path.parent.rmdir()
    finally:
        os.close(descriptor)


def check_directory(directory: pathlib.Path) -> None:
    """Refuses a file, or a link to nothing, where the directory should be."""
    for path in (directory, *directory.parents):
        if os.path.lexists(path):
            if path.is_dir():
                return
            what = "a file" if path.exists() else "a link to nothing"
            raise NotADirectoryError(
                f"Checkpoints cannot lie in `{directory}`: `{path}` is {what}. Move "
                "that away, or give another directory."
            )


def _check_ours(path: pathlib.Path) -> None:
    """Refuses a `.equifed` that somebody else made."""
    folder = path.parent
    if not os.path.lexists(folder):
        return  # The program that had it took it away.
    links = folder.is_symlink() or path.is_symlink()
    if folder.is_dir() and not links and not path.is_dir():
        content = ""
        with contextlib.suppress(FileNotFoundError):
            content = path.read_text("utf-8", "replace")
        if content.startswith(_MARK):
            return
        if content == "" and {x.name for x in folder.iterdir()} <= {path.name}:
            return  # Somebody was killed who had just made it.
    raise FileExistsError(
        f"`{folder}` is not a folder that a `Checkpointer` made. It needs one of this "
        "name: move that away, or give another directory."
    )


def _sign(path: pathlib.Path, descriptor: int) -> None:
    """Says in the file who has it: the first thing that is written to the directory."""
    # Of one length and never cut, so that at no moment the mark is missing.
    content = f"{_MARK}process {os.getpid()} on {platform.node()}".ljust(199) + "\n"
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, content.encode())
    os.fsync(descriptor)
    # A folder may be closed to new files though the old one can be written to.
    probe = path.parent / "probe"
    shutil.rmtree(probe, ignore_errors=True)
    probe.mkdir()
    probe.rmdir()


def _lock(directory: pathlib.Path, descriptor: int) -> None:
    try:
        _lock_file(descriptor)
    except OSError as error:
        if error.errno not in _TAKEN:
            warn(
                f"`{directory}` cannot be locked ({words_of(error)}), so that nothing "
                "keeps a second program from saving there. See that none does.",
            )
            return
        content = os.read(descriptor, 200).decode("utf-8", "replace").strip()
        who = content.removeprefix(_MARK) or "another program"
        raise BlockingIOError(
            f"`{directory}` is in use: {who} is training there. Wait until it has "
            "ended, or give another directory."
        ) from None


def _is_open_file(path: pathlib.Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _lock_file(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt

        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # what is written can still be read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _forget() -> None:
    """A forked process has no part in the lock, nor keeps it when its parent dies."""
    for held in _held.values():
        os.close(held.descriptor)
    _held.clear()


if os.name == "posix":
    os.register_at_fork(after_in_child=_forget)
