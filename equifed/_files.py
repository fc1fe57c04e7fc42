"""A file is replaced as a whole, or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO


Path = str | pathlib.Path


@contextlib.contextmanager
def replacing(target: Path, aside: Path) -> Iterator[BinaryIO]:
    """A file, to be written under another name beside the target, that takes its place
    once it is complete and on the disk; or goes, if anything comes between."""
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise
