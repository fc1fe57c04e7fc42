"""Clients that differ in size."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import ArrayLike, Int, Shaped

from ..._check import check_count, check_number, check_seed, checked
from .._random import generator, PARTITION, permutation
from .base import AbstractPartition, check_enough, named


class QuantityPartition(AbstractPartition):
    """Clients whose sizes follow a power law, with examples drawn at random.

    Client `i` gets a share in proportion to `(i + 1) ** -exponent`, after `min_size`
    examples have been given to everyone.
    """

    num_clients: int
    exponent: float
    min_size: int
    seed: int

    @checked()
    def __init__(
        self,
        num_clients: int,
        exponent: ArrayLike = 1.0,
        *,
        min_size: int = 1,
        seed: int = 0,
    ):
        """**Arguments:**

        - `num_clients`: The number of clients.
        - `exponent`: How unequal they are; with 0 they have equal sizes.
        - `min_size`: The fewest examples that a client may have.
        - `seed`: The seed of the split.
        """
        check_number("exponent", exponent, least=0)
        self.num_clients = check_count("num_clients", num_clients)
        self.exponent = float(np.asarray(exponent))
        self.min_size = check_count("min_size", min_size, least=0)
        self.seed = check_seed(seed)

    @property
    def column_names(self) -> tuple[str, ...]:
        return ()

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        needed = self.num_clients * self.min_size
        check_enough(num_examples, needed, "num_clients * min_size")
        shares = np.arange(1.0, self.num_clients + 1) ** -self.exponent
        cuts = np.cumsum(shares)[:-1] / shares.sum() * (num_examples - needed)
        cuts = np.rint(cuts).astype(np.int64)
        cuts += self.min_size * np.arange(1, self.num_clients)
        rows = permutation(generator(self.seed, PARTITION), num_examples)
        return named(np.split(rows, cuts))
