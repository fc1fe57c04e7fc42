"""Loggers to a file of one's own: every number, to the last digit."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, SupportsFloat

from .._check import checked
from .._warn import warn
from .aside import Aside, NOT_REACHED, NOT_THE_SAME, unused
from .base import AbstractLogger, scalars
from .rows import check_of_this_run, rows_in, text_of


class JSONLines(AbstractLogger):
    """Writes a file with one JSON object a line: the round and its metrics.

    Each line is written out at once. When a training is resumed, the rounds that it
    repeats are first taken from the file, and so is a last line that a killed run left
    half-written. Until all of them are there again, what the file had is beside it
    (`run.jsonl.cut` of `run.jsonl`), so that a kill in between loses nothing, and the
    next run goes on with it. If they are not repeated, all and to the letter, they were
    of another run: what the file had is kept under another name (`run.1.jsonl`), with
    a warning. So is what it had where a training begins at its first round. A file with
    anything else than such rows is an error, and stays as it is; so is one whose rows
    have none of this run's metrics.

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
        # The first round of ours in the file, and what it had from there on.
        self._first: int | None = None
        self._aside = Aside(self.path)

    def start(self, num_rounds: int, first_round: int) -> None:
        """Announces a training. The file must be one of ours, and can be written to.

        **Raises:**

        `ValueError` or `OSError` if it is not so.
        """
        self.close()
        self._begins = first_round == 0
        with self._in_one_sentence("be written to"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            rows_in(self.path)
            self._aside.check()
            if self.path.exists():
                open(self.path, "ab").close()
            elif not os.access(self.path.parent, os.W_OK):
                raise PermissionError(errno.EACCES, "")

    def log(self, round: int, metrics: Mapping[str, SupportsFloat]) -> None:
        text = text_of(round, scalars(metrics))
        with self._in_one_sentence(f"take round {round}"):
            if self._file is None or (self._last is not None and round <= self._last):
                self._open(round, text)
            if not self._aside.repeats(round, text.encode()):
                self._keep(NOT_THE_SAME)
            file: Any = self._file
            file.write(text)
            file.flush()
            self._aside.repeated(round)
        self._last = round

    def close(self) -> None:
        self._close_file()
        try:
            if self._aside:
                self._keep(NOT_REACHED)
        finally:
            self._first, self._aside = None, Aside(self.path)

    def _close_file(self) -> None:
        file, self._file, self._begins = self._file, None, None
        if file is not None:
            file.close()

    def _open(self, round: int, text: str) -> None:
        """Takes from the file what is repeated from `round` on, or begins a new one."""
        begins = self._begins
        self._close_file()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = rows_in(self.path)
        kept = sum(len(row) for number, row in rows.items() if number < round)
        new = begins or (begins is None and kept == 0) or not rows
        if self._first is None:
            if not new:
                check_of_this_run(self.path, rows, text)
            self._aside.adopt(rows, round, begins=new)
        if new:
            # If it is this object that wrote them, nobody needs to be told.
            self._set_aside(quietly=begins is None and self._last is not None)
        elif kept < self.path.stat().st_size:
            self._aside.add(rows, round, self._first)
            # In one step, so that a kill leaves the rows before it or all of them.
            os.truncate(self.path, kept)
        self._first = round if self._first is None else min(round, self._first)
        self._file = open(self.path, "a", encoding="utf-8")
        if kept and self.path.is_file() and self._file.tell():
            with open(self.path, "rb") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    self._file.write("\n")

    def _set_aside(self, *, quietly: bool) -> None:
        """Keeps what the file has under another name."""
        path = self.path.resolve()
        if not path.is_file() or path.stat().st_size == 0:
            return
        kept = unused(path)
        path.rename(kept)
        if not quietly:
            warn(
                f"`{self.path}` had rows of another run. They are kept in `{kept}`; "
                "this run begins a new file."
            )

    def _keep(self, why: str) -> None:
        self._first = 0  # Nothing else that may be cut needs to be remembered.
        self._aside.keep(why)

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
