"""Some clients in every round, whoever else takes part."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from ..._check import check_count, checked
from .base import AbstractSampler


class Including(AbstractSampler):
    """Wraps a sampler: some clients take part in every round, and it draws of the
    others.

    So a round has so many more clients than it draws. [`equifed.FLTrust`][] needs it
    for the client that holds the server's examples. Nothing is said of its
    `participation`: the chances of clients differ.
    """

    sampler: AbstractSampler
    clients: tuple[int, ...]

    @checked()
    def __init__(self, sampler: AbstractSampler, clients: Sequence[int]):
        """**Arguments:**

        - `sampler`: Draws of the others, as of a population without these clients.
        - `clients`: The numbers of those who always take part, at least one.
        """
        self.sampler = sampler
        numbers = sorted(check_count("clients", i, least=0) for i in clients)
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(
                "`clients` must name at least one client, and each once, got "
                f"{numbers}."
            )
        self.clients = tuple(numbers)

    @property
    def seed(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.sampler.seed

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        drawn = np.array(self.sampler(round, self._others(num_clients)), np.int64)
        # Their numbers leave out those of the clients that are there anyway.
        for client in self.clients:
            drawn = drawn + (drawn >= client)
        return np.concatenate([np.array(self.clients, np.int64), drawn])

    def max_clients(self, num_clients: int) -> int:
        others = self.sampler.max_clients(self._others(num_clients))
        return len(self.clients) + others

    def _others(self, num_clients: int) -> int:
        last, others = self.clients[-1], num_clients - len(self.clients)
        if last >= num_clients or others < 1:
            raise ValueError(
                f"`clients` must be some, not all, of the {num_clients} clients of the "
                f"population, from 0 to {num_clients - 1}, got {list(self.clients)}."
            )
        return others
