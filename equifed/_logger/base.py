"""What a logger is, the one that does nothing, and several as one."""

import abc
import contextlib
import types
from collections.abc import Mapping
from typing import Any, SupportsFloat

import numpy as np

from .._history import ROUND
from .._overrides import inherit_types
from .._words import shown


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

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

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


def scalars(metrics: Mapping[str, Any]) -> dict[str, SupportsFloat]:
    """Those metrics that are one number. A confusion matrix is none, and no logger's;
    nor is the number of the round a metric."""
    return {n: x for n, x in metrics.items() if n != ROUND and np.ndim(x) == 0}


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
                    f"`Loggers` takes loggers, got {shown(logger)}. A class must be "
                    "called: `ProgressBar()`, not `ProgressBar`."
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
