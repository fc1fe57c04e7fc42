"""Files that are on disk, all of them, and are what was written."""

import json
import os
import pathlib
import zlib
from typing import Any


def write_json(path: pathlib.Path, content: Any) -> None:
    # `default` turns NumPy's numbers into Python's.
    path.write_text(json.dumps(content, default=lambda x: x.tolist()), "utf-8")


def sync(directory: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Sees to it that all of a directory is on disk; returns what is in it."""
    files = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            path = pathlib.Path(parent, name)
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
            relative = path.relative_to(directory).as_posix()
            files[relative] = (path.stat().st_size, _checksum(path))
        sync_directory(pathlib.Path(parent))
    return files


def sync_directory(directory: pathlib.Path) -> None:
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def damage(path: pathlib.Path) -> str | None:
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


def _checksum(path: pathlib.Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum
