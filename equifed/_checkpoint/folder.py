"""Which of the things in a directory are checkpoints of ours.

A directory may hold anything: folders named like dates, links, files of other tools. A
checkpoint is a folder named like a round whose manifest says that it is one of that
name. Nothing else is ever renamed or deleted, and of a checkpoint only the files that
its manifest lists.
"""

import json
import os
import pathlib
import re
import shutil
from typing import NamedTuple

from .._warn import warn
from .disk import checksum
from .lock import check_directory, UNFINISHED


MANIFEST = "manifest.json"
LEAVES = "leaves.json"
FORMAT = 1  # of the files; also the mark by which a manifest is known as ours

_NAME = re.compile(r"(\d{8,})(?:-(\d+))?")  # the round, and which attempt at saving it


class Folder(NamedTuple):
    """A folder that is named like a checkpoint."""

    path: pathlib.Path
    round: int
    attempt: int
    files: dict[str, tuple[int, int]] | None
    """The size and the checksum of each; `None` if it is not known to be ours."""


def folders(directory: pathlib.Path) -> list[Folder]:
    """From the oldest to the newest, what is not ours included."""
    found = []
    if directory.is_dir():
        for path in directory.iterdir():
            match = _NAME.fullmatch(path.name)
            if match is not None:
                attempt = int(match[2] or 0)
                found.append(Folder(path, int(match[1]), attempt, _files(path)))
    return sorted(found, key=lambda x: (x.round, x.attempt))


def newest_intact(directory: pathlib.Path) -> str | None:
    """The name of the newest checkpoint that can be gone on from."""
    check_directory(directory)
    for folder in reversed(folders(directory)):
        if not looks_like_ours(folder):
            continue
        found = find_damage(folder)
        if found is None:
            return folder.path.name
        warn(
            f"The checkpoint `{folder.path}` is damaged: {found}. It is passed over "
            "for the one before it.",
        )
    return None


def later_than(directory: pathlib.Path, round: int) -> str | None:
    """The name of an intact checkpoint of a later round."""
    for folder in folders(directory):
        if folder.round > round and find_damage(folder) is None:
            return folder.path.name
    return None


def delete_old(directory: pathlib.Path, newest: str, keep: int) -> None:
    """Deletes all checkpoints but the one just saved and some before it."""
    ours = [folder for folder in folders(directory) if folder.files is not None]
    (saved,) = (x for x in ours if x.path.name == newest)
    # What is later than the one just saved is damaged, or `save` had not begun.
    before = [x for x in ours if x.round < saved.round]
    kept = [saved, *before[::-1][: keep - 1]]
    for folder in ours:
        if folder not in kept:
            delete(folder)


def unused_name(directory: pathlib.Path, round: int) -> str:
    # Something of that name may be there: the same round, saved before, or a thing
    # that is not ours. It stays until the new checkpoint is complete.
    name, attempt = f"{round:08d}", 0
    while os.path.lexists(directory / name):
        attempt += 1
        name = f"{round:08d}-{attempt}"
    return name


def manifest_of(
    name: str, round: int, files: dict[str, tuple[int, int]]
) -> dict[str, object]:
    return {"equifed": FORMAT, "name": name, "round": round, "files": files}


def _files(path: pathlib.Path) -> dict[str, tuple[int, int]] | None:
    """What the manifest lists, if it can be read and is of a checkpoint so named."""
    try:
        content = json.loads((path / MANIFEST).read_text("utf-8"))
        if content["equifed"] != FORMAT or content["name"] != path.name:
            return None
        files = {name: (size, crc) for name, (size, crc) in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    inside = all(
        not pathlib.PurePath(name).is_absolute() and ".." not in name.split("/")
        for name in files
    )
    return files if inside else None


def find_damage(folder: Folder) -> str | None:
    """What is wrong with a checkpoint, or `None`."""
    if folder.files is None:
        return f"its `{MANIFEST}` cannot be read, or is of another name"
    for name, (size, crc) in folder.files.items():
        file = folder.path / name
        try:
            found = file.stat().st_size
            intact = found == size and checksum(file) == crc
        except OSError as error:
            gone = isinstance(error, FileNotFoundError | NotADirectoryError)
            return f"its `{name}` {'is missing' if gone else 'cannot be read'}"
        if found != size:
            return f"its `{name}` has {found} bytes instead of {size}"
        if not intact:
            return f"its `{name}` is not what was written"
    return None


def looks_like_ours(folder: Folder) -> bool:
    """Whether something without a manifest was a checkpoint, by all appearance."""
    return folder.files is not None or os.path.isfile(folder.path / LEAVES)


def delete(folder: Folder) -> None:
    """Deletes what the manifest lists. What else somebody put there stays, and so does
    all that lies behind a link."""
    path, files = folder.path, set(folder.files or ())
    if path.is_symlink():
        return
    inner = {str(x) for name in files for x in pathlib.PurePosixPath(name).parents}
    if _contents(path) <= files | inner | {MANIFEST}:
        # Moved first, lest a kill leave half of it under a round's name.
        doomed = path.parent / UNFINISHED
        shutil.rmtree(doomed, ignore_errors=True)
        shutil.rmtree(path.rename(doomed))
        return
    for name in files & _contents(path):
        (path / name).unlink()
    (path / MANIFEST).unlink()


def _contents(path: pathlib.Path) -> set[str]:
    """All files below a folder, and the links and the empty folders."""
    found = set()
    for parent, folders, names in os.walk(path):
        links = [x for x in folders if os.path.islink(os.path.join(parent, x))]
        empty = [] if folders or names else [""]
        for name in [*names, *links, *empty]:
            found.add(pathlib.Path(parent, name).relative_to(path).as_posix())
    return found
