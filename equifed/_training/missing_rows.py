"""What a training reads by the numbers of its examples, against those numbers.

A dataset that is put on the devices is looked at once, before anything is compiled. Of
one that is streamed nobody has seen it all before its end: there each round's clients
are looked at before the round.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from .._client import traced_loss
from .._cohort import Cohort
from .._compiled import FlatTree
from .._lookups import Lookups, Numbered
from .._round.lookups import check_lookups
from .._types import Loss, Model
from ..data import AbstractLoader, Loader, StreamLoader
from ..data._participants import participants


class MissingRows:
    """Refuses the data of rounds that hold numbers which have no row.

    **Arguments:**

    - `numbered`: what the algorithm reads beside the loss.
    - `lookups`: what both read; `None` if it was not tried yet, for want of an example.
    """

    def __init__(
        self,
        loader: AbstractLoader,
        loss: Loss,
        numbered: Sequence[Numbered],
        lookups: Lookups | None,
    ):
        self._loader, self._loss, self._lookups = loader, loss, lookups
        self._numbered = numbered
        self._seen: set[str] = set()
        mesh = loader.mesh
        # Where several processes share a dataset, each reads its own clients' rows.
        apart = mesh is not None and mesh.is_multi_process
        self._whole = isinstance(loader, Loader) and (loader.resident or apart)

    def before(self, model: Model) -> None:
        """Looks at all of a dataset that is put on the devices."""
        if isinstance(self._loader, Loader) and self._loader.resident:
            assert self._lookups is not None
            self._lookups.check_dataset(self._loader.dataset, model)

    def __call__(
        self,
        round: int,
        model: Callable[[], Model | None],
        cohort: Callable[[], Cohort],
    ) -> None:
        """Looks at the clients of a round of which nobody has."""
        if not isinstance(self._loader, Loader | StreamLoader):
            # Whose examples these are, the cohort alone knows.
            one = model()
            if one is not None:
                read = (self._loss, self._numbered)
                check_lookups(*read, lambda: one, [FlatTree(one)], cohort())
            return
        if self._whole or (self._lookups is not None and not self._lookups):
            return
        if len(self._seen) == self._loader.num_clients:
            return
        if self._lookups is None and model() is None:
            return  # There are several, and what each of them reads is not known.
        clients = [
            (client_id, columns)
            for client_id, columns in participants(self._loader, round)
            if client_id not in self._seen
        ]
        if isinstance(self._loader, Loader):
            self._seen.update(client_id for client_id, _ in clients)
        if not clients:
            return
        if self._lookups is None:
            name, columns = clients[0]
            example, who = _example(columns), f"client {name!r}"
            _, self._lookups = traced_loss(
                *(self._loss, model(), example, who, self._numbered)
            )
        self._lookups.check(clients, model)


def _example(columns: Mapping[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct(x.shape[1:], jax.dtypes.canonicalize_dtype(x.dtype))
        for name, x in columns.items()
    }
