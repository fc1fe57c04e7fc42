"""Full participation."""

import numpy as np
from jaxtyping import Int

from ..._check import check_seed, checked
from .base import AbstractSampler
from .participation import OrderedParticipation


class AllClients(AbstractSampler):
    """Every client, in every round."""

    seed: int

    @checked()
    def __init__(self, *, seed: int = 0):
        """**Arguments:**

        - `seed`: The seed of the order in which the clients visit their examples.
        """
        self.seed = check_seed(seed)

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        return np.arange(num_clients)

    def max_clients(self, num_clients: int) -> int:
        return num_clients

    def participation(self, num_clients: int) -> OrderedParticipation:
        return OrderedParticipation(num_clients, num_clients, min_separation=1)
