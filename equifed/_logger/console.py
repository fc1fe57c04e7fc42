"""Loggers for whoever watches: the newest numbers, rounded."""

import numbers
import sys
from collections.abc import Mapping
from typing import Any, SupportsFloat

from .base import AbstractLogger


class ProgressBar(AbstractLogger):
    """A progress bar: rounds done, rounds per second, and a few metrics."""

    def __init__(self, *metrics: str):
        """**Arguments:**

        - `metrics`: the names of the metrics to show; `"loss"` if none is given. A
            metric that a round does not have keeps its last value.
        """
        self.metrics = metrics or ("loss",)
        self._bar: Any = None
        self._shown: dict[str, str] = {}

    def start(self, num_rounds: int, first_round: int) -> None:
        self.close()
        self._bar = self._open(num_rounds, first_round)

    def log(self, round: int, metrics: Mapping[str, SupportsFloat]) -> None:
        if self._bar is None:
            self._bar = self._open(None, round - 1)
        for name in self.metrics:
            if name in metrics:
                self._shown[name] = _short(metrics[name])
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None
        self._shown = {}

    def _open(self, total: int | None, initial: int) -> Any:
        from tqdm.auto import tqdm  # slow to import

        return tqdm(total=total, initial=initial, unit=" rounds", dynamic_ncols=True)


class Table(AbstractLogger):
    """Prints a row of an aligned table every few rounds, above a progress bar if there
    is one.

    A row shows the newest value of each metric since the row before.
    """

    def __init__(self, *metrics: str, every: int = 10):
        """**Arguments:**

        - `metrics`: the columns, in this order; every metric if none is given.
        - `every`: how many rounds from one row to the next. The last round of a
            training has a row, too.
        """
        if every < 1:
            raise ValueError(f"`every` must be at least 1, got {every}.")
        self.metrics = metrics
        self.every = every
        self._num_rounds: int | None = None
        self._columns: list[str] = []
        self._newest: dict[str, str] = {}

    def start(self, num_rounds: int, first_round: int) -> None:
        self.close()
        self._num_rounds = num_rounds

    def log(self, round: int, metrics: Mapping[str, SupportsFloat]) -> None:
        for name, value in metrics.items():
            if not self.metrics or name in self.metrics:
                self._newest[name] = _short(value)
        if round % self.every == 0 or round == self._num_rounds:
            self._print(round)

    def close(self) -> None:
        self._num_rounds = None
        self._columns = []
        self._newest = {}

    def _print(self, round: int) -> None:
        unseen = [name for name in self._newest if name not in self._columns]
        if self.metrics:
            columns = list(self.metrics)
        else:
            columns = self._columns + unseen
        widths = [max(len(name), 10) for name in columns]
        if columns != self._columns:
            self._columns = columns
            _write(_row("round", columns, widths))
        cells = [self._newest.get(name, "-") for name in columns]
        _write(_row(str(round), cells, widths))
        self._newest = {}


def _short(x: SupportsFloat) -> str:
    return str(int(x)) if isinstance(x, numbers.Integral) else f"{float(x):.4g}"


def _row(first: str, cells: list[str], widths: list[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([first.rjust(6), *cells])


def _write(line: str) -> None:
    from tqdm.auto import tqdm

    tqdm.write(line, file=sys.stdout)
