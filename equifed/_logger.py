"""Where the numbers of each round go.

A logger is given the metrics of one round at a time and shows or stores them. It never
changes the training, there is always one (`NoLogger` does nothing), and several are one
(`Loggers`). What is written to disk survives a kill: each round is written out before
the next one begins. A run that is resumed takes back the rounds that it is about to
repeat, so that no round is ever on record twice.
"""

import abc
import contextlib
import importlib
import json
import math
import numbers
import os
import pathlib
import sys
import time
import types
from collections.abc import Mapping
from typing import Any, SupportsFloat


class AbstractLogger(abc.ABC):
    """Receives the metrics of every round.

    To write your own, say what to do with one round (`log`) and how to finish
    (`close`); `start` is called once before the first round of a training.

    !!! example

        ```python
        with logger:
            for state, metrics in eqf.rounds(algorithm, state, loader, ...):
                logger.log(int(state.round), jax.device_get(metrics))
        ```
    """

    @abc.abstractmethod
    def start(self, num_rounds: int, first_round: int) -> None:
        """Announces a training.

        **Arguments:**

        - `num_rounds`: the number of rounds in all.
        - `first_round`: how many of them were run before: not 0 if the training was
            resumed.
        """

    @abc.abstractmethod
    def log(self, round: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Takes one round's metrics.

        **Arguments:**

        - `round`: the number of the round, counted from 1.
        - `metrics`: its metrics by name. Not every round has every metric.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Finishes what was started. May be called twice."""

    def __enter__(self) -> "AbstractLogger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()


class NoLogger(AbstractLogger):
    """Logs nothing."""

    def start(self, num_rounds: int, first_round: int) -> None:
        pass

    def log(self, round: int, metrics: Mapping[str, SupportsFloat]) -> None:
        pass

    def close(self) -> None:
        pass


class Loggers(AbstractLogger):
    """Several loggers at once.

    !!! example

        ```python
        logger = eqf.Loggers(eqf.ProgressBar(), eqf.JSONLines("run.jsonl"))
        ```
    """

    def __init__(self, *loggers: AbstractLogger):
        """**Arguments:**

        - `loggers`: what to log to, in this order.
        """
        for logger in loggers:
            if not isinstance(logger, AbstractLogger):
                raise TypeError(
                    f"`Loggers` takes loggers, got {logger!r}. A class must be called: "
                    "`ProgressBar()`, not `ProgressBar`."
                )
        self.loggers = loggers

    def start(self, num_rounds: int, first_round: int) -> None:
        for logger in self.loggers:
            logger.start(num_rounds, first_round)

    def log(self, round: int, metrics: Mapping[str, SupportsFloat]) -> None:
        for logger in self.loggers:
            logger.log(round, metrics)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # closes all, even if one cannot
            for logger in self.loggers:
                stack.callback(logger.close)


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


class TensorBoard(AbstractLogger):
    """Writes scalars for TensorBoard. Needs `pip install "equifed[tensorboard]"`."""

    def __init__(self, directory: str | os.PathLike[str]):
        """**Arguments:**

        - `directory`: the run's directory: `tensorboard --logdir` of it, or of the
            directory above it.
        """
        _require("tensorboard", "tensorboard")
        self.directory = pathlib.Path(directory)
        self._writer: Any = None

    def start(self, num_rounds: int, first_round: int) -> None:
        self.close()

    def log(self, round: int, metrics: Mapping[str, SupportsFloat]) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer import event_file_writer

        protos: Any = event_pb2
        now = time.time()
        if self._writer is None:
            self._writer = event_file_writer.EventFileWriter(str(self.directory))
            # Has TensorBoard forget what an earlier run logged from this round on.
            restart = protos.SessionLog(status=protos.SessionLog.START)
            event = protos.Event(wall_time=now, step=round, session_log=restart)
            self._writer.add_event(event)
        event = protos.Event(wall_time=now, step=round)
        for name, x in metrics.items():
            event.summary.value.add(tag=name, simple_value=float(x))
        self._writer.add_event(event)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None


class WandB(AbstractLogger):
    """Logs to Weights & Biases. Needs `pip install "equifed[wandb]"`.

    !!! example

        ```python
        logger = eqf.WandB(project="federated", name="FedAvg", config={"lr": 0.1})
        ```
    """

    def __init__(self, **init: Any):
        """**Arguments:**

        - `init`: given to `wandb.init`, which is called at the first round: `project`,
            `name`, `config`, `mode`, ... To go on with a resumed run, give its `id` and
            `resume="allow"`.
        """
        _require("wandb", "wandb")
        self.init = init
        self._run: Any = None

    def start(self, num_rounds: int, first_round: int) -> None:
        self.close()

    def log(self, round: int, metrics: Mapping[str, SupportsFloat]) -> None:
        if self._run is None:
            self._run = _require("wandb", "wandb").init(**self.init)
        self._run.log({name: float(x) for name, x in metrics.items()}, step=round)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
        self._run = None


def _require(package: str, extra: str) -> types.ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"This needs the package `{package}`, which is not installed. Run "
            f'`pip install "equifed[{extra}]"`.'
        ) from error


def _short(x: SupportsFloat) -> str:
    return str(int(x)) if isinstance(x, numbers.Integral) else f"{float(x):.4g}"


def _json_number(x: SupportsFloat) -> int | float | str:
    if isinstance(x, numbers.Integral):
        return int(x)
    x = float(x)
    return x if math.isfinite(x) else str(x)


def _row(first: str, cells: list[str], widths: list[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([first.rjust(6), *cells])


def _write(line: str) -> None:
    from tqdm.auto import tqdm

    tqdm.write(line, file=sys.stdout)
