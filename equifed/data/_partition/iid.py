"""Clients that are all alike."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, Shaped

from ..._check import check_count, check_seed, checked
from .._random import generator, PARTITION, permutation
from .base import AbstractPartition, check_enough, named


class IIDPartition(AbstractPartition):
    """Clients of equal size (up to one example), drawn without regard to anything."""

    num_clients: int
    seed: int

    @checked()
    def __init__(self, num_clients: int, *, seed: int = 0):
        """**Arguments:**

        - `num_clients`: The number of clients.
        - `seed`: The seed of the split.
        """
        self.num_clients = check_count("num_clients", num_clients)
        self.seed = check_seed(seed)

    @property
    def column_names(self) -> tuple[str, ...]:
        return ()

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        check_enough(num_examples, self.num_clients, "num_clients")
        rows = permutation(generator(self.seed, PARTITION), num_examples)
        return named(np.array_split(rows, self.num_clients))
