"""The cohorts of a training, one by one or several in a call, of any loader."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .._cohort import Cohort, Cohorts, last_client
from .._words import shown
from ._cohorts import AbstractLoader
from ._loader import Loader
from ._stack import stack_cohorts


class Peekable:
    """Cohorts one after another, of which the next can be looked at before its turn."""

    def __init__(self, cohorts: Iterator[tuple[int, Cohort]]):
        self._cohorts = cohorts
        self._next: tuple[int, Cohort] | None = None
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[tuple[int, Cohort]]:
        return self

    def __next__(self) -> tuple[int, Cohort]:
        error, self._error = self._error, None
        if error is not None:
            raise error
        pair, self._next = self._next, None
        return next(self._cohorts) if pair is None else pair

    def peek(self) -> Cohort | None:
        """The next cohort; `None` if there is none. An error is raised at its turn."""
        try:
            self._next = next(self)
        except Exception as error:  # noqa: BLE001
            self._error = error
            return None
        return self._next[1]


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


def split(start: int, stop: int, size: int, breaks: Sequence[int]) -> Iterator[range]:
    """The rounds of each call: at most `size` of them, and none goes beyond a multiple
    of one of `breaks`."""
    while start < stop:
        end = min(start + size, stop, *(start - start % b + b for b in breaks))
        yield range(start, end)
        start = end
