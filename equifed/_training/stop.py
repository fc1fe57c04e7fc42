"""When a training ends before its last round.

A stop looks at what was measured and at nothing else. So a training that is resumed,
whose history a checkpoint has, ends where it would have ended anyway.
"""

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import equinox as eqx

from .._check import check_count, check_number, checked
from .._history import check_known, names_in, ROUND
from .._words import shown


class AbstractStop(eqx.Module):
    """When a training ends before its last round, and which of its models is the best.

    To write your own, say which metric it is about, and whether to end:

    !!! example

        ```python
        class Plateau(eqf.AbstractStop):
            metric: str = "test/loss"
            mode: str = "min"

            def __call__(self, history):
                _, losses = self.values(history)
                return len(losses) > 5 and min(losses[-5:]) > losses[-6]
        ```
    """

    metric: eqx.AbstractVar[str]
    """The metric by which models are better or worse, by its name in the history."""
    mode: eqx.AbstractVar[str]
    """`"max"` if higher is better, `"min"` if lower is."""

    @abc.abstractmethod
    def __call__(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether to end the training after the last of these rounds. It must depend on
        them alone.

        **Arguments:**

        - `history`: the rows of those rounds at which a training is evaluated: each
            `eval_every`-th, and the last one.
        """

    def values(
        self, history: Sequence[Mapping[str, Any]]
    ) -> tuple[list[int], list[float]]:
        """The rounds of a history and the metric's values there, without those that are
        NaN.

        **Raises:**

        `ValueError` if a round has no such metric, `TypeError` if it is not a number.
        """
        rounds, values = [], []
        for row in history:
            check_known(
                self.metric,
                names_in([row]),
                f"`stop` names a metric, but round {row[ROUND]}",
            )
            value = row[self.metric]
            if not isinstance(value, int | float):
                raise TypeError(
                    f"The metric {self.metric!r} of `stop` must be a number, got "
                    f"{shown(value)}."
                )
            if not math.isnan(value):
                rounds.append(row[ROUND])
                values.append(float(value))
        return rounds, values

    def best(self, history: Sequence[Mapping[str, Any]]) -> int | None:
        """The round of the best value, the first of several; `None` without any."""
        rounds, values = self.values(history)
        if not values:
            return None
        best = max(values) if self.mode == "max" else min(values)
        return rounds[values.index(best)]


class Target(AbstractStop):
    """Ends a training when a metric is as good as it is to be.

    It looks where the training is evaluated. A value that is NaN does not count.

    !!! example

        ```python
        eqf.train(..., stop=eqf.Target("test/accuracy", 0.97, mode="max"))
        ```
    """

    metric: str
    value: float
    mode: str

    @checked()
    def __init__(self, metric: str, value: float, *, mode: Literal["max", "min"]):
        """**Arguments:**

        - `metric`: its name in the history, `"test/accuracy"` say.
        - `value`: what it is to be.
        - `mode`: whether it is to be so high at least (`"max"`) or so low (`"min"`).
        """
        check_number("value", value)
        self.metric, self.value, self.mode = metric, float(value), mode

    def __call__(self, history: Sequence[Mapping[str, Any]]) -> bool:
        _, values = self.values(history[-1:])
        if self.mode == "max":
            return any(value >= self.value for value in values)
        return any(value <= self.value for value in values)


class Patience(AbstractStop):
    """Ends a training when a metric has not become better for a number of rounds.

    It looks where the training is evaluated, so that it ends at the first evaluation at
    which `rounds` rounds have gone by since that of the last improvement, or since the
    first evaluation. A value that is NaN is no improvement.

    !!! example

        ```python
        eqf.train(..., stop=eqf.Patience("test/loss", rounds=50, mode="min"))
        ```
    """

    metric: str
    rounds: int
    mode: str
    min_delta: float

    @checked()
    def __init__(
        self,
        metric: str,
        *,
        rounds: int,
        mode: Literal["max", "min"],
        min_delta: float = 0.0,
    ):
        """**Arguments:**

        - `metric`: its name in the history, `"test/loss"` say.
        - `rounds`: for how many rounds to wait.
        - `mode`: whether higher is better (`"max"`) or lower (`"min"`).
        - `min_delta`: a value is better than the last one that was, if it is by more
            than so much.
        """
        self.metric, self.mode = metric, mode
        self.rounds = check_count("rounds", rounds)
        check_number("min_delta", min_delta, least=0)
        self.min_delta = float(min_delta)

    def __call__(self, history: Sequence[Mapping[str, Any]]) -> bool:
        sign = 1.0 if self.mode == "max" else -1.0
        since, best = history[0][ROUND], -math.inf
        for round, value in zip(*self.values(history), strict=True):
            if sign * value > best + (self.min_delta if best > -math.inf else 0.0):
                since, best = round, sign * value
        return history[-1][ROUND] - since >= self.rounds
