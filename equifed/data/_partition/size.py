"""Clients of given sizes."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, Shaped

from ..._check import check_seed, checked
from .._random import generator, PARTITION, permutation
from .base import AbstractPartition, as_sizes, check_sum, named


class SizePartition(AbstractPartition):
    """Clients of the sizes that are given, with examples drawn at random."""

    sizes: tuple[int, ...]
    seed: int

    @checked()
    def __init__(
        self, sizes: Sequence[int] | Int[np.ndarray, " clients"], *, seed: int = 0
    ):
        """**Arguments:**

        - `sizes`: The number of examples of each client. They add up to the number of
            examples that there are: nobody's are not thrown away unsaid.
        - `seed`: The seed of the split.
        """
        self.sizes = as_sizes(sizes)
        self.seed = check_seed(seed)

    @property
    def column_names(self) -> tuple[str, ...]:
        return ()

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        check_sum(self.sizes, num_examples)
        rows = permutation(generator(self.seed, PARTITION), num_examples)
        return named(np.split(rows, np.cumsum(self.sizes)[:-1]))
