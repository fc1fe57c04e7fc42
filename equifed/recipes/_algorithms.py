"""The algorithms by the names that a command line takes, and how one is built from its
numbers."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, get_args

from jaxtyping import Array, Int

from .. import _algorithm
from .._algorithm import AbstractAlgorithm, Ledger, OverRounds, PowerOfChoice
from .._client import AbstractCorrection, Proximal
from ..posterior import AbstractPosteriorSampler, IASG
from ._aggregators import Aggregator
from ._arguments import checked_numbers, OF_THE_TASK, ROOT
from ._batching import Batching
from ._compression import compressed, Compression
from ._optimizers import Decay, OPTIMIZERS
from ._task import Task


def _all() -> dict[str, type[AbstractAlgorithm]]:
    """Every one that is made of a loss: the others are wrappers of another one."""
    out = {}
    for name, cls in sorted(vars(_algorithm).items()):
        if not inspect.isclass(cls) or not issubclass(cls, AbstractAlgorithm):
            continue
        if "loss" in inspect.signature(cls).parameters:
            out[name.lower()] = cls
    return out


ALGORITHMS = _all()


def name_of(cls: type[AbstractAlgorithm]) -> str:
    """What `--algorithm` takes for a class."""
    return cls.__name__.lower()


def needs_root(cls: type[AbstractAlgorithm]) -> bool:
    """Whether one of its clients must be the server's own."""
    return "root" in inspect.signature(cls).parameters


def build(
    cls: type[AbstractAlgorithm],
    numbers: Mapping[str, Any],
    task: Task,
    batching: Batching,
    *,
    up: Compression | None = None,
    down: Compression | None = None,
    num_chosen: int | None = None,
) -> AbstractAlgorithm:
    """An algorithm for a task; if a learning rate falls from round to round, one of
    which the numbers are functions of the round.

    **Arguments:**

    - `up`, `down`: how what clients send, and are sent, is compressed.
    - `num_chosen`: how many of a round's clients train, by Power-of-Choice; `None` for
        all.
    """
    numbers = checked_numbers(cls, numbers)
    made = _Made(cls, tuple(numbers.items()), task, batching, up, down)
    falls = any(
        type(x) in OPTIMIZERS.values() and x.decay != Decay() for x in numbers.values()
    )
    algorithm = OverRounds(made) if falls else made(0)
    return algorithm if num_chosen is None else PowerOfChoice(algorithm, num_chosen)


def with_ledger(algorithm: AbstractAlgorithm) -> AbstractAlgorithm:
    """One whose rounds tell what each client has sent and was sent: it goes around all
    that may be around it already."""
    return Ledger(algorithm)


@dataclasses.dataclass(frozen=True)
class _Made:
    """Makes the algorithm of a round."""

    cls: type[AbstractAlgorithm]
    numbers: tuple[tuple[str, Any], ...]
    task: Task
    batching: Batching
    up: Compression | None
    down: Compression | None

    def __call__(self, round: Int[Array, ""] | int) -> AbstractAlgorithm:
        given = {name: _part(x, round) for name, x in self.numbers}
        for parameter in inspect.signature(self.cls).parameters.values():
            name, hint = parameter.name, parameter.annotation
            if name == "batching":
                given[name] = self.batching.build()
            elif name == "root":
                given[name] = ROOT
            elif name in OF_THE_TASK:
                given[name] = _of_task(self.task, name, name_of(self.cls))
            elif hint is AbstractPosteriorSampler:
                optim, burnin = given.pop("client_optim"), given.pop("burnin", 0)
                given[name] = IASG(optim, burnin=burnin)
            elif AbstractCorrection in get_args(hint):
                mu = given.pop("mu", None)
                given[name] = None if mu is None else Proximal(mu)
        return compressed(self.cls(**given), self.up, self.down)


def _of_task(task: Task, name: str, algorithm: str) -> Any:
    value = getattr(task, name)
    if value is None:
        raise ValueError(
            f"`{algorithm}` needs the task's `{name}`, but {task.name!r} has none. "
            "Give another task, or another algorithm."
        )
    return value


def _part(value: Any, round: Int[Array, ""] | int) -> Any:
    if type(value) in OPTIMIZERS.values():
        return value.build(round)
    return value.build() if isinstance(value, Aggregator) else value
