"""What an evaluation says of each client."""

from typing import Any

import equinox as eqx
import numpy as np


class ClientMetrics(eqx.Module):
    """Metrics of each client of a dataset.

    `values[name]` has one entry for each client, in the order of `client_ids`; it is
    NaN for a client without examples.
    """

    values: dict[str, np.ndarray]
    num_examples: np.ndarray
    client_ids: list[str]

    def quantiles(
        self, name: str, q: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9)
    ) -> dict[float, float]:
        """Quantiles of a metric over the clients, each counted once."""
        return {p: float(np.nanquantile(self.values[name], p)) for p in q}

    def mean(self, name: str) -> float:
        """The mean of a metric over the clients, each counted once."""
        return float(np.nanmean(self.values[name]))

    def __getitem__(self, client_id: str) -> dict[str, Any]:
        if client_id not in self.client_ids:
            raise ValueError(f"There is no client {client_id!r} among these.")
        i = self.client_ids.index(client_id)
        return {name: value[i].tolist() for name, value in self.values.items()}
