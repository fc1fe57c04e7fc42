"""The rows that a resumed training takes from a file, until it has repeated them.

All that the file had is in a second one before any of it leaves the first, so that a
kill loses no row, whenever it comes. What a killed training left there is gone on with
by the next one.
"""

import os
import pathlib
from collections.abc import Mapping

from .._files import replacing
from .._warn import warn
from .rows import rows_in, whole


NOT_REACHED = "were not reached again by this run"
NOT_THE_SAME = "are not what this run has of the same rounds"
KILLED = "a run that was killed did not reach again"


class Aside:
    """What a log had, and which of its rows are still to be repeated."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._rows: dict[int, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._rows)

    @property
    def file(self) -> pathlib.Path:
        path = self.path.resolve()
        return path.with_name(f"{path.name}.cut")

    def check(self) -> None:
        """Refuses a file of somebody else's."""
        rows_in(self.file)

    def adopt(self, rows: Mapping[int, bytes], round: int, *, begins: bool) -> None:
        """Takes over what a killed training left.

        **Arguments:**

        - `rows`: those of the log now.
        - `round`: the first round that is repeated.
        """
        left = rows_in(self.file)
        missing = {n: x for n, x in left.items() if whole(rows.get(n, b"")) != x}
        last = max(rows, default=0)
        if missing and (begins or min(missing) < max(round, last + 1)):
            self._rows = missing
            self.keep(KILLED)
        elif missing:
            # The log has since gone on to the last of its rows, all of them the same.
            self._rows = {n: x for n, x in left.items() if n >= round}
        elif left:
            self.file.unlink()

    def add(self, rows: Mapping[int, bytes], round: int, before: int | None) -> None:
        """Remembers the rows from `round` on, up to the round `before`."""
        found = {
            number: whole(row)
            for number, row in rows.items()
            if number >= round and (before is None or number < before)
        }
        if found and not self.file.exists():
            new = self.file.with_name(f"{self.file.name}.new")
            with replacing(self.file, new) as file:
                file.writelines(map(whole, rows.values()))
        self._rows |= found

    def repeats(self, round: int, text: bytes) -> bool:
        """Whether a new row is what there was of its round, if there was one."""
        return self._rows.get(round, text) == text

    def repeated(self, round: int) -> None:
        if self._rows.pop(round, None) is not None and not self._rows:
            self.file.unlink(missing_ok=True)

    def keep(self, why: str) -> None:
        """Leaves all that the log had under a name that stays."""
        first, self._rows = min(self._rows), {}
        kept = unused(self.path.resolve())
        self.file.rename(kept)
        before = min(rows_in(kept)) < first
        rest = f" Its rows before round {first} stay in it, too." if before else ""
        warn(
            f"`{self.path}` had rows from round {first} on, which {why}. All that it "
            f"had is kept in `{kept}`.{rest}"
        )


def unused(path: pathlib.Path) -> pathlib.Path:
    """A name beside a file that nothing has yet."""
    number = 1
    while os.path.lexists(other := path.with_stem(f"{path.stem}.{number}")):
        number += 1
    return other
