"""Who took part in a round, and with which examples: looked up on the host when a
round's numbers need explaining."""

from collections.abc import Mapping

import numpy as np

from ._loader import Loader
from ._stream import StreamLoader


def participants(
    loader: Loader | StreamLoader, round: int
) -> list[tuple[str, Mapping[str, np.ndarray]]]:
    """Pairs of a client's id and its examples; of a stream, whose past is gone, those
    of the last few rounds only."""
    if isinstance(loader, StreamLoader):
        return [(c.client_id, c.examples) for c in loader._recent.get(round, ())]
    dataset = loader.dataset
    numbers = np.asarray(loader.sampler(round, dataset.num_clients)).tolist()
    return [(dataset.client_ids[i], dataset.client(i)) for i in numbers]
