"""Loggers to the tools that compare runs. Each is an optional package: it is looked for
when the logger is made, rather than after the first round."""

import errno
import importlib
import os
import pathlib
import time
import types
from collections.abc import Mapping
from typing import Any, SupportsFloat

from .._check import checked
from .._warn import warn
from .base import AbstractLogger, scalars


class TensorBoard(AbstractLogger):
    """Writes scalars for TensorBoard. Needs `pip install "equifed[tensorboard]"`."""

    @checked()
    def __init__(self, directory: str | os.PathLike[str]):
        """**Arguments:**

        - `directory`: the run's directory: `tensorboard --logdir` of it, or of the
            directory above it.
        """
        _require("tensorboard", "tensorboard")
        self.directory = pathlib.Path(directory)
        self._writer: Any = None

    def start(self, num_rounds: int, first_round: int) -> None:
        """Announces a training. Its directory can be written to.

        **Raises:**

        `OSError` if it is not so.
        """
        self.close()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if not os.access(self.directory, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise type(error)(
                f"`{self.directory}` cannot be written to: {error.strerror}."
            ) from None
        if first_round == 0 and any(self.directory.glob("events.out.tfevents.*")):
            warn(
                f"`{self.directory}` has another run, which TensorBoard will show no "
                "more, though its files stay. Give each run a directory of its own."
            )

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
        for name, x in scalars(metrics).items():
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
        values = {name: float(x) for name, x in scalars(metrics).items()}
        self._run.log(values, step=round)

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
