"""What a round reads by the numbers of its examples, against those numbers.

A loop looks at its data before it is used, see `_missing_rows.py`.
Here it is a single round that is asked for, whose cohort lies on the devices already.
The loss is traced once for a model and a kind of example, and a pool of examples in
which all is in order is not looked at again.
"""

import operator
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from .._client import traced_loss
from .._cohort import Cohort, NO_CLIENT
from .._compiled import FlatTree
from .._lookups import all_fit, Among, Lookups, Numbered, Read
from .._tree import is_here
from .._types import Loss, Model


class _Seen:
    """What is known of a loss: its reads, and the pool that was looked at last."""

    def __init__(self, reads: set[Read | Among]):
        self.reads, self._pool = reads, ()

    def looked_at(self, columns: list[jax.Array]) -> bool:
        known = [reference() for reference in self._pool]
        return len(known) == len(columns) and all(map(operator.is_, known, columns))

    def remember(self, columns: list[jax.Array]) -> None:
        self._pool = tuple(map(weakref.ref, columns))


_KNOWN: weakref.WeakKeyDictionary[Any, dict[Hashable, _Seen]]
_KNOWN = weakref.WeakKeyDictionary()


def check_lookups(
    loss: Loss,
    numbered: Sequence[Numbered],
    model: Callable[[], Model],
    parts: Sequence[FlatTree],
    cohort: Cohort,
) -> None:
    """Refuses a cohort whose examples hold numbers that have no row in a table which
    the loss reads by them, or which the algorithm does not know.

    **Arguments:**

    - `numbered`: what the algorithm reads beside the loss.
    - `model`: gives it, if what it reads is not known yet.
    - `parts`: of what the model is in, taken apart: models of one structure read alike.
    """
    pool = cohort.examples
    if not isinstance(pool, dict) or not all(map(is_here, pool.values())):
        return
    if not any(jnp.issubdtype(x.dtype, jnp.integer) for x in pool.values()):
        return
    kinds = [(name, x.shape[2:], x.dtype) for name, x in pool.items()]
    shapes = tuple((x.shape, x.dtype) for flat in parts for x in flat.arrays)
    treedefs = tuple(flat.treedef for flat in parts)
    key = (treedefs, tuple(kinds), shapes, tuple(numbered))
    try:
        hash(key)
        seen = _KNOWN.setdefault(loss, {})
    except TypeError:  # A loss that is not hashable would be traced in each round.
        return
    lookups = None
    if key not in seen:
        lookups = _traced(loss, numbered, model(), cohort)
        seen[key] = _Seen(set() if lookups is None else lookups.reads)
    known = seen[key]
    columns = [pool[read.column] for read in known.reads]
    if not columns or known.looked_at(columns):
        return
    if all(all_fit(read, np.asarray(pool[read.column])) for read in known.reads):
        known.remember(columns)
        return
    lookups = lookups or _traced(loss, numbered, model(), cohort)
    if lookups is not None:
        lookups.check(list(_clients(cohort)), model)
        known.reads &= lookups.reads


def _traced(
    loss: Loss, numbered: Sequence[Numbered], model: Model, cohort: Cohort
) -> Lookups | None:
    try:
        return traced_loss(loss, model, cohort.example, "the cohort", numbered)[1]
    except Exception:  # noqa: BLE001 (it will be raised where it is computed)
        return None


def _clients(cohort: Cohort) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    pool = {name: np.asarray(x) for name, x in cohort.examples.items()}
    index, first = np.asarray(cohort.index), np.asarray(cohort.first)
    stop = first + np.asarray(cohort.num_examples)
    for place in zip(*np.nonzero(index != NO_CLIENT), strict=True):
        rows = slice(int(first[place]), int(stop[place]))
        yield int(index[place]), {n: x[place[0], rows] for n, x in pool.items()}
