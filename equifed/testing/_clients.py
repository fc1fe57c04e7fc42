"""The clients that the laws try an algorithm on."""

from typing import Any

import numpy as np

from ..data import AbstractBatching, AllClients, FederatedDataset, Loader
from ._problems import ragged_clients


# Empty clients, one-example clients, and sizes that no batch size divides.
SIZES = (5, 0, 1, 12, 3, 7)


def law_clients() -> FederatedDataset:
    """Clients whose examples have numbers, and say how noisy their loss is."""
    made, total = ragged_clients(SIZES), sum(SIZES)
    columns = dict(made.columns)
    columns["noise"] = np.full(total, 0.1, np.float32)
    columns["id"] = np.arange(total, dtype=np.int32)
    return FederatedDataset(columns, made.offsets, made.client_ids)


def law_loader(batching: AbstractBatching, **options: Any) -> Loader:
    """All of them in every round. Of a message it is said how stale it is, for methods
    that want to know: in the second round every other one is, by a version."""

    def info(round: int, clients: np.ndarray) -> dict[str, np.ndarray]:
        return {"staleness": np.minimum(round, clients % 2).astype(np.int32)}

    return Loader(law_clients(), AllClients(), batching, info=info, **options)
