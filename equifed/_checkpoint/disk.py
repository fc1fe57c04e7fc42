"""Files that are on disk, all of them, and are what was written; and one sentence where
they cannot be written."""

import json
import os
import pathlib
import re
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .._json import to_json
from .._words import shown


def check_path(directory: pathlib.Path) -> None:
    """Refuses the names that cannot be saved to as they are."""
    text = str(directory)
    if "\0" in text or ("\\" in text and os.name == "posix"):
        what = "a NUL" if "\0" in text else "a backslash"
        raise ValueError(
            f"`directory` must be a path without {what}, got {text[-160:]!r}: arrays "
            "cannot be saved there."
        )


def check_history(history: Any) -> None:
    """Refuses what could not be written, before anything is."""
    for i, row in enumerate(history):
        where = f"history[{i}]"
        if not isinstance(row, dict) or not all(isinstance(x, str) for x in row):
            raise TypeError(
                f"`{where}` must be a dictionary of numbers by name, got {shown(row)}."
            )
        for name, value in row.items():
            if type(value) in (int, float, bool):
                continue
            try:
                json.dumps(value, default=lambda x: x.tolist())
            except (AttributeError, TypeError, ValueError):
                raise TypeError(
                    f"`{where}[{name!r}]` must be a number or an array of numbers, got "
                    f"{shown(value)}."
                ) from None


def write_json(path: pathlib.Path, content: Any, *, indent: int | None = None) -> None:
    path.write_text(to_json(content, indent=indent), "utf-8")


def sync(
    directory: pathlib.Path, known: Mapping[str, tuple[int, int]] = MappingProxyType({})
) -> dict[str, tuple[int, int]]:
    """Sees to it that all of a directory is on disk; returns what is in it.

    **Arguments:**

    - `known`: what need not be read again.
    """
    files = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            path = pathlib.Path(parent, name)
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
            relative = path.relative_to(directory).as_posix()
            files[relative] = known.get(relative)
            if files[relative] is None:
                files[relative] = (path.stat().st_size, checksum(path))
        sync_directory(pathlib.Path(parent))
    return files


def sync_directory(directory: pathlib.Path) -> None:
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def checksum(path: pathlib.Path) -> int:
    total = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total = zlib.crc32(block, total)
    return total


def cause(error: Exception) -> OSError | None:
    """The operating system's error that an exception tells of, if it is one."""
    if isinstance(error, OSError):
        return error
    # Orbax writes by a library that puts the number into its own words.
    match = re.search(r"os_error_code='(\d+)'", str(error))
    return OSError(int(match[1]), os.strerror(int(match[1]))) if match else None


def words_of(error: OSError) -> str:
    """What the operating system said: "No space left on device"."""
    return os.strerror(error.errno) if error.errno else str(error)
