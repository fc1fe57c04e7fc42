"""What is inside of an algorithm that is wrapped around another one."""

from collections.abc import Iterator
from typing import Any

from .afl import AFL
from .agnostic import AgnosticFedAvg
from .asynchronous import AbstractAsynchronous
from .base import AbstractAlgorithm
from .one_pass import AbstractOnePass


def layers(algorithm: AbstractAlgorithm) -> Iterator[AbstractAlgorithm]:
    """The algorithm, the one inside of it, and so on; of one whose numbers depend on
    the round that of the first."""
    found: Any = algorithm
    while isinstance(found, AbstractAlgorithm):
        yield found
        found = getattr(found, "algorithm", getattr(found, "first", None))


def asynchronous_in(algorithm: AbstractAlgorithm) -> AbstractAsynchronous | None:
    """The layer whose clients train from old models; `None` if there is none."""
    found = (x for x in layers(algorithm) if isinstance(x, AbstractAsynchronous))
    return next(found, None)


def weighs_by_aggregator(algorithm: AbstractAlgorithm) -> bool:
    """Whether nothing but its aggregator says how much each client counts, as far as
    that is known: a step of the user's own may weigh them otherwise."""
    if isinstance(algorithm, AFL | AgnosticFedAvg):
        return False
    ours = type(algorithm).__module__.startswith("equifed.")
    return ours or isinstance(algorithm, AbstractOnePass)


def check_once(around: AbstractAlgorithm) -> None:
    """Refuses a wrapper around another one of its kind."""
    first, *others = layers(around)
    if any(isinstance(x, type(first)) for x in others):
        name = type(first).__name__
        raise TypeError(f"`algorithm` has a `{name}` in it. One is enough.")
