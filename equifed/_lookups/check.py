"""The numbers of a data set against the rows that a program reads by them."""

import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .._tree import is_here
from .._types import Model
from ..data import FederatedDataset
from ..data._arrays import canonical
from ..data._whose import read_rows
from .follow import Read, reads, Site
from .numbered import Among
from .program import arrays_of, Program
from .stand_in import matters


# A client's id, or its number where that is not known, and its examples.
Client: TypeAlias = tuple[str | int, Mapping[str, np.ndarray]]

_ROWS = 32  # so many examples at fault are tried
_BYTES = 2**26  # of a column are looked at together

# The least and the greatest number of a column of a data set, which never changes.
_KNOWN: weakref.WeakKeyDictionary[FederatedDataset, dict[str, tuple[int, int]]]
_KNOWN = weakref.WeakKeyDictionary()


def fits(read: Read | Among, least: int, greatest: int) -> bool:
    """Whether it knows all numbers from the least to the greatest."""
    return read.least <= least and greatest < read.size


def all_fit(read: Read | Among, values: np.ndarray) -> bool:
    """Whether it knows all of these numbers."""
    return values.size == 0 or fits(read, int(values.min()), int(values.max()))


class _Suspect(NamedTuple):
    """An example with a number that has no row."""

    client_id: str | int
    row: int
    value: int
    example: dict[str, np.ndarray]


class Lookups:
    """The reads of a program by numbers of an example.

    False if there are none.
    """

    def __init__(
        self,
        program: Program,
        given: Callable[[Model], Any],
        beside: Iterable[Among] = (),
    ):
        """**Arguments:**

        - `given`: what the program is given of a model, as where it was traced.
        - `beside`: what an algorithm reads beside the program.
        """
        self._program, self._given, self._beside = program, given, beside

    @functools.cached_property
    def _reads(self) -> dict[Read | Among, frozenset[Site]]:
        return {**reads(self._program), **dict.fromkeys(self._beside, frozenset())}

    def __bool__(self) -> bool:
        return bool(self._reads)

    @property
    def reads(self) -> set[Read | Among]:
        """Those whose numbers are to be looked at."""
        return set(self._reads)

    def check_dataset(self, dataset: FederatedDataset, model: Model) -> None:
        """Refuses a data set with numbers that have no row, as `check`."""
        for read in list(self._reads):
            if not fits(read, *_extremes(dataset, read.column)):
                ids = enumerate(dataset.client_ids)
                clients = ((c, dataset.client(i)) for i, c in ids)
                self._look(read, clients, lambda: model)

    def check(self, clients: Sequence[Client], model: Callable[[], Model]) -> None:
        """Refuses clients whose examples hold numbers that have no row.

        Those that the results do not depend on are let pass, and as a program that
        takes such numbers on purpose is full of them, it is not asked again.

        **Raises:**

        `ValueError` that names the column, the client, the row and the number.
        """
        for read in list(self._reads):
            self._look(read, clients, model)

    def _look(
        self, read: Read | Among, clients: Iterable[Client], model: Callable[[], Model]
    ) -> None:
        suspects = list(itertools.islice(_suspects(read, clients), _ROWS))
        if not suspects:
            return
        if isinstance(read, Among):
            for suspect in suspects:
                value = read.value(suspect.example)
                if not fits(read, value, value):
                    raise ValueError(
                        read.refusal(suspect.client_id, suspect.row, value)
                    )
            self._reads.pop(read)
            return
        guilty = self._guilty(read, suspects, model())
        if guilty is None:
            self._reads.pop(read)
            return
        name, last, value = read.column, read.size - 1, guilty.value
        rows = f"{read.size} rows (0 to {last}"
        remedy = "Renumber the column"
        if value >= 0:
            rows += ")"
            remedy += f", or give it {value + 1} rows"
        else:
            rows += f", or -1 to {-read.size} from the end)"
        raise ValueError(
            f"Column {name!r} of client {guilty.client_id!r} holds {value} in row "
            f"{guilty.row}, but by these numbers the loss or a metric reads a table of "
            f"{rows}, and JAX would silently take the nearest row instead. {remedy}; "
            f"or if that row is meant, write `jnp.clip(example[{name!r}], 0, {last})`."
        )

    def _guilty(
        self, read: Read, suspects: list[_Suspect], model: Model
    ) -> _Suspect | None:
        """The first whose number matters, if there is one."""
        examples = {
            name: np.concatenate([canonical(s.example[name]) for s in suspects])
            for name in suspects[0].example
        }
        given = arrays_of(self._given(_lively(model)))
        if not all(map(is_here, given)):
            return None
        try:
            found = matters(self._program, given, examples, self._reads[read], read)
        except Exception:  # noqa: BLE001 (what is right must not fail for a try)
            return None
        return next(itertools.compress(suspects, found.tolist()), None)


def _suspects(read: Read | Among, clients: Iterable[Client]) -> Iterator[_Suspect]:
    for client_id, columns in clients:
        values = np.asarray(columns[read.column])
        if all_fit(read, values):
            continue
        values = values.reshape(len(values), -1)
        outside = (values < read.least) | (values >= read.size)
        for row in np.flatnonzero(outside.any(1)).tolist():
            value = int(values[row][outside[row]][0])
            example = {n: np.asarray(x[row : row + 1]) for n, x in columns.items()}
            yield _Suspect(client_id, row, value, example)


def _extremes(dataset: FederatedDataset, name: str) -> tuple[int, int]:
    known = _KNOWN.setdefault(dataset, {})
    if name not in known:
        column = dataset.columns[name]
        count = max(_BYTES * len(column) // max(column.nbytes, 1), 1)
        pieces = (
            read_rows(dataset, name, start, min(start + count, len(column)))
            for start in range(0, len(column), count)
        )
        ends = [(int(x.min()), int(x.max())) for x in pieces if x.size > 0] or [(0, 0)]
        known[name] = min(a for a, _ in ends), max(b for _, b in ends)
    return known[name]


def _lively(model: Model) -> Model:
    """A model like this one without arrays of zeros, such as a last layer may begin
    with: behind one nothing matters, but only until the first step."""

    def other(x: Any) -> Any:
        if not eqx.is_inexact_array(x) or not is_here(x) or np.asarray(x).any():
            return x
        return jnp.cos(jnp.arange(x.size, dtype=float)).reshape(x.shape).astype(x.dtype)

    return jtu.tree_map(other, model)
