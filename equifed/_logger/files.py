"""Loggers to a file of one's own: every number, to the last digit."""

import contextlib
import errno
import json
import math
import numbers
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, SupportsFloat

from .._check import checked
from .._warn import warn
from .base import AbstractLogger, scalars


# What a kill may have kept from a row: with one of these ends it is a row again.
_ENDS = ["", "}", ' "a": 1}', '"a": 1}', '": 1}', ": 1}", " 1}"]
_ENDS += ['nan"}', 'an"}', 'n"}', 'inf"}', 'nf"}', 'f"}', '"}']
_ENDS += ['\\": 1}', *("0" * n + '": 1}' for n in (1, 2, 3, 4))]  # in an escape


class JSONLines(AbstractLogger):
    """Writes a file with one JSON object a line: the round and its metrics.

    Each line is written out at once. When a training is resumed, the rounds that it
    repeats are first taken from the file, and so is a last line that a killed run left
    half-written. If it does not repeat them all, to the letter, they were of another
    run: what the file had is kept under another name (`run.1.jsonl` of `run.jsonl`),
    with a warning. So is what it had where a training begins at its first round. A file
    with anything else than such rows is an error, and stays as it is.

    Without `start` the first round that is logged tells whether a training begins.

    JSON knows no infinite numbers: they are written as the strings `"nan"`, `"inf"` and
    `"-inf"`, which `float` understands.
    """

    @checked()
    def __init__(self, path: str | os.PathLike[str]):
        """**Arguments:**

        - `path`: the file. Its directory is made if there is none.
        """
        self.path = pathlib.Path(path)
        self._file: Any = None
        self._last: int | None = None
        # Whether the next row is the first of a training; `None` if nobody said so.
        self._begins: bool | None = None
        # The first round of ours in the file, the rows that it had from there on, and
        # which of them have been written again.
        self._first: int | None = None
        self._cut: dict[int, bytes] = {}
        self._repeated: set[int] = set()

    def start(self, num_rounds: int, first_round: int) -> None:
        """Announces a training. The file must be one of ours, and can be written to.

        **Raises:**

        `ValueError` or `OSError` if it is not so.
        """
        self.close()
        self._begins = first_round == 0
        with self._in_one_sentence("be written to"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rows()
            if self.path.exists():
                open(self.path, "ab").close()
            elif not os.access(self.path.parent, os.W_OK):
                raise PermissionError(errno.EACCES, "")

    def log(self, round: int, metrics: Mapping[str, SupportsFloat]) -> None:
        values = {name: _json_number(x) for name, x in scalars(metrics).items()}
        line = {"round": int(round)} | values | {"round": int(round)}
        text = json.dumps(line, allow_nan=False) + "\n"
        with self._in_one_sentence(f"take round {round}"):
            if self._file is None or (self._last is not None and round <= self._last):
                self._open(round)
            cut = self._cut.get(round)
            if cut is not None and cut != text.encode():
                self._keep_cut("are not what this run has of the same rounds")
            self._repeated.add(round)
            file: Any = self._file
            file.write(text)
            file.flush()
        self._last = round

    def close(self) -> None:
        self._close_file()
        try:
            if self._cut.keys() - self._repeated:
                self._keep_cut("were not reached again by this run")
        finally:
            self._first, self._cut, self._repeated = None, {}, set()

    def _close_file(self) -> None:
        file, self._file, self._begins = self._file, None, None
        if file is not None:
            file.close()

    def _open(self, round: int) -> None:
        """Takes from the file what is repeated from `round` on, or begins a new one."""
        begins = self._begins
        self._close_file()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = self._rows()
        kept = sum(size for number, size in rows if number < round)
        if begins or (begins is None and kept == 0) or not rows:
            # If it is this object that wrote them, nobody needs to be told.
            self._set_aside(quietly=begins is None and self._last is not None)
        elif kept < self.path.stat().st_size:
            self._note_cut(rows, round)
            # In one step, so that a kill leaves the rows before it or all of them.
            os.truncate(self.path, kept)
        self._first = round if self._first is None else min(round, self._first)
        self._file = open(self.path, "a", encoding="utf-8")
        if kept and self.path.is_file() and self._file.tell():
            with open(self.path, "rb") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    self._file.write("\n")

    def _rows(self) -> list[tuple[int, int]]:
        """The round and the number of bytes of each row."""
        if not self.path.is_file():
            return []
        rows: list[tuple[int, int]] = []
        *lines, rest = self.path.read_bytes().split(b"\n")
        for line in lines:
            number = _round_of(line)
            if number is None or (rows and number <= rows[-1][0]):
                raise self._not_ours(line)
            rows.append((number, len(line) + 1))
        number = _round_of(rest)
        if number is not None and (not rows or number > rows[-1][0]):
            rows.append((number, len(rest)))  # Only the end of its line is missing.
        elif not _is_half_a_row(rest):
            raise self._not_ours(rest)
        return rows

    def _set_aside(self, *, quietly: bool) -> None:
        """Keeps what the file has under another name."""
        path = self.path.resolve()
        if not path.is_file() or path.stat().st_size == 0:
            return
        kept = _unused(path)
        path.rename(kept)
        if not quietly:
            warn(
                f"`{self.path}` had rows of another run. They are kept in `{kept}`; "
                "this run begins a new file."
            )

    def _note_cut(self, rows: list[tuple[int, int]], round: int) -> None:
        """Remembers the rows from `round` on that this object has not written."""
        content, start = self.path.read_bytes(), 0
        for number, size in rows:
            line = content[start : start + size].removesuffix(b"\n") + b"\n"
            if number >= round and (self._first is None or number < self._first):
                self._cut[number] = line
            start += size

    def _keep_cut(self, why: str) -> None:
        """Writes under another name what the file had before this run."""
        cut, self._cut = self._cut, {}
        self._first = 0  # Nothing else that may be cut needs to be remembered.
        first, kept = min(cut), _unused(self.path.resolve())
        size = sum(size for number, size in self._rows() if number < first)
        before = self.path.read_bytes()[:size] if size else b""
        with open(kept, "xb") as file:
            file.write(before + b"".join(cut[number] for number in sorted(cut)))
        rest = f" Its rows before round {first} stay in it, too." if before else ""
        warn(
            f"`{self.path}` had rows from round {first} on, which {why}. All that it "
            f"had is kept in `{kept}`.{rest}"
        )

    def _not_ours(self, line: bytes) -> ValueError:
        return ValueError(
            f"`{self.path}` is not a file that `JSONLines` wrote: it has the line "
            f"{line[:80]!r}. Give another path, or move that file away."
        )

    @contextlib.contextmanager
    def _in_one_sentence(self, task: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError):
                self.close()  # What was not written cannot be written now.
            words = os.strerror(error.errno) if error.errno else str(error)
            sentence = type(error)(f"`{self.path}` cannot {task}: {words}.")
            sentence.errno = error.errno
            raise sentence from None


def _unused(path: pathlib.Path) -> pathlib.Path:
    """A name beside a file that nothing has yet."""
    number = 1
    while os.path.lexists(other := path.with_stem(f"{path.stem}.{number}")):
        number += 1
    return other


def _round_of(line: bytes) -> int | None:
    """The round of a row, if it is one that `log` wrote, to the letter."""
    try:
        row = json.loads(line)
        number = row["round"]
        if next(iter(row)) != "round" or type(number) is not int:
            return None
        same = json.dumps(row, allow_nan=False).encode() == line
    except (ValueError, TypeError, KeyError):
        return None
    return number if same and all(map(_is_number, row.values())) else None


def _is_number(x: Any) -> bool:
    return type(x) in (int, float) or x in ("nan", "inf", "-inf")


def _is_half_a_row(rest: bytes) -> bool:
    """Whether a row may have begun like this."""
    if b'{"round": '.startswith(rest):
        return True
    rest = re.sub(rb": [-+.e0-9]*$", b": 1", rest)  # of any number
    return any(_round_of(rest + end.encode()) is not None for end in _ENDS)


def _json_number(x: SupportsFloat) -> int | float | str:
    if isinstance(x, numbers.Integral):
        return int(x)
    x = float(x)
    return x if math.isfinite(x) else str(x)
