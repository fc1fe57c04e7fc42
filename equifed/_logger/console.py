"""Loggers for whoever watches: the newest numbers, rounded."""

import numbers
import sys
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

from .._check import check_count
from .._history import ROUND
from .._warn import warn
from .._words import listed, shown
from .base import AbstractLogger, scalars
from .compiling import Compiling


class ProgressBar(AbstractLogger):
    """A progress bar: rounds done, rounds per second, and a few metrics; or that a
    round is being compiled, which may take a while.

    A metric that there is not is told by a warning, with those that there are.
    """

    def __init__(self, *metrics: str):
        """**Arguments:**

        - `metrics`: the names of the metrics to show; `"loss"` if none is given. A
            metric that a round does not have keeps its last value.
        """
        self._asked = _Asked("ProgressBar", metrics)
        self.metrics = metrics or ("loss",)
        self._bar: Any = None
        self._shown: dict[str, str] = {}
        self._compiling: Compiling | None = None

    def start(self, num_rounds: int, first_round: int) -> None:
        self.close()
        self._bar = self._open(num_rounds, first_round)
        self._compiling = Compiling(self._tell)

    def log(self, round: int, metrics: Mapping[str, SupportsFloat]) -> None:
        if self._bar is None:
            self._bar = self._open(None, round - 1)
        values = scalars(metrics)
        for name in self.metrics:
            if name in values:
                self._shown[name] = _short(values[name])
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()
        self._asked.see(round, values)

    def close(self) -> None:
        if self._compiling is not None:
            self._compiling.close()
        self._compiling = None
        if self._bar is not None:
            self._bar.close()
        self._bar = None
        self._shown = {}
        self._asked.close()

    def _tell(self) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str("compiling")

    def _open(self, total: int | None, initial: int) -> Any:
        from tqdm.auto import tqdm  # slow to import

        return tqdm(total=total, initial=initial, unit=" rounds", dynamic_ncols=True)


class Table(AbstractLogger):
    """Prints a row of an aligned table every few rounds, above a progress bar if there
    is one.

    A row shows the numbers of its own round, and `-` for what that round did not
    measure. So that none is lost, a round has a row of its own if it measures what the
    one before it did not, as rounds that are evaluated do. A metric that there is not
    is told by a warning, with those that there are.
    """

    def __init__(self, *metrics: str, every: int = 10):
        """**Arguments:**

        - `metrics`: the columns, in this order; every metric if none is given.
        - `every`: how many rounds from one row to the next, beside those of rounds
            that are evaluated. The last round of a training has a row, too.
        """
        self.every = check_count("every", every)
        self._asked = _Asked("Table", metrics)
        self.metrics = metrics
        self._num_rounds: int | None = None
        self._columns: list[str] = []
        self._before: set[str] | None = None

    def start(self, num_rounds: int, first_round: int) -> None:
        self.close()
        self._num_rounds = num_rounds

    def log(self, round: int, metrics: Mapping[str, SupportsFloat]) -> None:
        values = scalars(metrics)
        cells = {
            name: _short(x)
            for name, x in values.items()
            if not self.metrics or name in self.metrics
        }
        new = self._before is not None and not cells.keys() <= self._before
        self._before = set(cells)
        if round % self.every == 0 or round == self._num_rounds or new:
            self._print(round, cells)
        self._asked.see(round, values)

    def close(self) -> None:
        self._num_rounds = None
        self._columns = []
        self._before = None
        self._asked.close()

    def _print(self, round: int, known: dict[str, str]) -> None:
        unseen = [name for name in known if name not in self._columns]
        if self.metrics:
            columns = list(self.metrics)
        else:
            columns = self._columns + unseen
        widths = [max(len(name), 10) for name in columns]
        if columns != self._columns:
            self._columns = columns
            _write(_row(ROUND, columns, widths))
        cells = [known.get(name, "-") for name in columns]
        _write(_row(str(round), cells, widths))


class _Asked:
    """The metrics that a logger was asked for: it warns of those that there are not.

    Not every round has every metric. But one that has some of an evaluation has all of
    it, and likewise what is measured in training. So a name is missed in the first
    round that has others of its kind: of the same path before the last `/`.
    """

    def __init__(self, who: str, names: Sequence[str]):
        for name in names:
            if not isinstance(name, str) or name == ROUND:
                raise TypeError(
                    f"`{who}` takes names of metrics, as `'loss'` or `'test/accuracy'`,"
                    f" got {shown(name)}. It shows the round anyway."
                )
        self._who, self._names = who, names
        self._begin()

    def _begin(self) -> None:
        self._missing, self._round = list(self._names), 0
        self._known: dict[str, None] = {}

    def see(self, round: int, metrics: Mapping[str, Any]) -> None:
        if self._missing:
            self._round = round
            self._known |= dict.fromkeys(metrics)
            kinds = {_kind(name) for name in metrics}
            here = [name for name in self._missing if _kind(name) in kinds]
            self._missing = [name for name in self._missing if name not in here]
            for name in here:
                if name not in metrics:
                    self._warn(f"round {round} has no such number", name)

    def close(self) -> None:
        missing, round = self._missing, self._round
        self._missing = []
        if round > 0:
            for name in missing:
                self._warn(f"no round up to {round} had such a number", name)
        self._begin()

    def _warn(self, problem: str, name: str) -> None:
        known = listed(self._known)
        warn(f"`{self._who}` is to show {name!r}, but {problem}. There are: {known}.")


def _kind(name: str) -> str:
    return name.rpartition("/")[0]


def _short(x: SupportsFloat) -> str:
    return str(int(x)) if isinstance(x, numbers.Integral) else f"{float(x):.4g}"


def _row(first: str, cells: list[str], widths: list[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([first.rjust(6), *cells])


def _write(line: str) -> None:
    from tqdm.auto import tqdm

    tqdm.write(line, file=sys.stdout)
