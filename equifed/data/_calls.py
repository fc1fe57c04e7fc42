"""The cohorts of a training, one by one or several in a call, of any loader."""

from collections.abc import Iterable, Iterator
from typing import Any

from .._cohort import Cohort, Cohorts, last_client
from .._words import shown
from ._cohorts import AbstractLoader
from ._loader import Loader
from ._stack import stack_cohorts


def cohorts_of(
    loader: AbstractLoader, start: int, stop: int
) -> Iterator[tuple[int, Cohort]]:
    """The cohorts of the rounds `start:stop`, if that is what the loader makes.

    **Raises:**

    `ValueError` or `TypeError` if it makes others, or not all of them.
    """
    name, expected = f"`{type(loader).__name__}.cohorts`", start
    for pair in loader.cohorts(start, stop):
        given: Any = pair
        if not isinstance(given, tuple) or len(given) != 2:
            raise TypeError(
                f"{name} must give pairs of a round's number and its cohort, got "
                f"{shown(given)}."
            )
        round, cohort = given
        if round != expected or round >= stop:
            raise ValueError(
                f"{name} must give the rounds from {start} to {stop - 1} one after the "
                f"other, but where {expected} was due it gave {shown(round)}."
            )
        if not isinstance(cohort, Cohort):
            raise TypeError(
                f"{name} must give a `Cohort`, got {shown(cohort)} in round {round}. "
                "Make one with `equifed.data.cohort`."
            )
        if cohort.mesh != loader.mesh:
            raise ValueError(
                f"{name} gave a cohort of another mesh than the loader's in round "
                f"{round}. Give both the same: `data.cohort(..., mesh=self.mesh)`."
            )
        if not isinstance(loader, Loader) and loader.num_clients is not None:
            last = last_client(cohort)
            if last >= loader.num_clients:  # its state would be another's
                raise ValueError(
                    f"{name} gave a client number {last} in round "
                    f"{round}, but the loader's `num_clients` is {loader.num_clients}."
                )
        yield round, cohort
        expected += 1
    if expected < stop:
        raise ValueError(
            f"{name} ended before round {expected}, but rounds up to {stop - 1} are "
            "asked for. Make as many, or train for fewer."
        )


def stacks(
    loader: AbstractLoader, calls: Iterable[range], size: int
) -> Iterator[tuple[range, Cohorts]]:
    """The cohorts of several rounds at a time.

    **Arguments:**

    - `calls`: The rounds of each call, at most `size` of them, one after another.
    - `size`: How many rounds there is room for.
    """
    if isinstance(loader, Loader):
        yield from loader.stacks(calls, size)
        return
    calls = list(calls)
    if not calls:
        return
    cohorts = cohorts_of(loader, calls[0].start, calls[-1].stop)
    for call in calls:
        yield call, stack_cohorts([next(cohorts)[1] for _ in call], size)
