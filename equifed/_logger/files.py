"""Loggers to a file of one's own: every number, to the last digit."""

import json
import math
import numbers
import os
import pathlib
from collections.abc import Mapping
from typing import Any, SupportsFloat

from .base import AbstractLogger


class JSONLines(AbstractLogger):
    """Writes a file with one JSON object a line: the round and its metrics.

    Each line is written out at once. When a training is resumed, the rounds that it
    repeats are first taken from the file, and so is a last line that a killed run left
    half-written. JSON knows no infinite numbers: they are written as the strings
    `"nan"`, `"inf"` and `"-inf"`, which `float` understands.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """**Arguments:**

        - `path`: the file. Its directory is made if there is none.
        """
        self.path = pathlib.Path(path)
        self._file: Any = None
        self._last = 0

    def start(self, num_rounds: int, first_round: int) -> None:
        self.close()

    def log(self, round: int, metrics: Mapping[str, SupportsFloat]) -> None:
        if self._file is None or round <= self._last:
            self.close()
            self._rewind(round)
            self._file = open(self.path, "a", encoding="utf-8")
        values = {name: _json_number(x) for name, x in metrics.items()}
        line = {"round": round} | values | {"round": round}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        self._last = round

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _rewind(self, round: int) -> None:
        """Takes from the file everything from `round` on."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        text = self.path.read_bytes()
        kept = b"".join(
            line
            for line in text.splitlines(keepends=True)
            if line.endswith(b"\n") and self._round_of(line) < round
        )
        if kept != text:  # in one step, so that a kill leaves the old file or the new
            temporary = self.path.with_name(self.path.name + ".tmp")
            temporary.write_bytes(kept)
            os.replace(temporary, self.path)

    def _round_of(self, line: bytes) -> int:
        try:
            return json.loads(line)["round"]
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"`{self.path}` is not a file that `JSONLines` wrote: it has the line "
                f"{line[:80]!r}. Give another path, or move that file away."
            ) from None


def _json_number(x: SupportsFloat) -> int | float | str:
    if isinstance(x, numbers.Integral):
        return int(x)
    x = float(x)
    return x if math.isfinite(x) else str(x)
