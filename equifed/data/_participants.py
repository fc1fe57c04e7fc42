"""Who took part in a round, and with which examples: looked up on the host when a
round's numbers need explaining."""

from collections.abc import Iterator, Mapping

import numpy as np

from ._cohorts import AbstractLoader
from ._dataset import FederatedDataset
from ._loader import Loader
from ._stream import StreamLoader
from ._whose import read_rows


def participants(
    loader: AbstractLoader, round: int
) -> list[tuple[str, Mapping[str, np.ndarray]]]:
    """Pairs of a client's id and its examples; of a stream, whose past is gone, those
    of the last few rounds only; of a loader of one's own none."""
    if isinstance(loader, StreamLoader):
        return [(c.client_id, c.examples) for c in loader._recent.get(round, ())]
    if not isinstance(loader, Loader):
        return []
    dataset = loader.dataset
    numbers = loader._drawn(round)[0].tolist()
    return [(dataset.client_ids[i], _Examples(dataset, i)) for i in numbers]


class _Examples(Mapping[str, np.ndarray]):
    """A client's examples, of which a column is read when it is asked for."""

    def __init__(self, dataset: FederatedDataset, client: int):
        self._dataset = dataset
        self._start, self._stop = dataset.offsets[client : client + 2].tolist()

    def __getitem__(self, name: str) -> np.ndarray:
        return read_rows(self._dataset, name, self._start, self._stop)

    def __iter__(self) -> Iterator[str]:
        return iter(self._dataset.columns)

    def __len__(self) -> int:
        return len(self._dataset.columns)
