"""Clients that differ in labels, by sorting and cutting."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, Shaped

from ..._check import check_count, check_seed, checked
from .._ids import client_codes
from .._random import generator, PARTITION, permutation
from .base import AbstractPartition, check_enough, named


class ShardPartition(AbstractPartition):
    """Clients with few labels: the examples are sorted by label and cut into shards of
    equal size, and each client gets `shards_per_client` random ones.

    ??? cite "Reference"

        ```bibtex
        @inproceedings{mcmahan2017communication,
            title={Communication-Efficient Learning of Deep Networks from Decentralized
                Data},
            author={McMahan, Brendan and Moore, Eider and Ramage, Daniel and Hampson,
                Seth and Agüera y Arcas, Blaise},
            booktitle={AISTATS},
            year={2017},
        }
        ```
    """

    num_clients: int
    shards_per_client: int
    label: str
    seed: int

    @checked()
    def __init__(
        self,
        num_clients: int,
        shards_per_client: int = 2,
        *,
        label: str = "label",
        seed: int = 0,
    ):
        """**Arguments:**

        - `num_clients`: The number of clients.
        - `shards_per_client`: How many shards each of them gets.
        - `label`: The column to sort by.
        - `seed`: The seed of the split.
        """
        self.num_clients = check_count("num_clients", num_clients)
        self.shards_per_client = check_count("shards_per_client", shards_per_client)
        self.label = label
        self.seed = check_seed(seed)

    @property
    def column_names(self) -> tuple[str, ...]:
        return (self.label,)

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        num_shards = self.num_clients * self.shards_per_client
        check_enough(num_examples, num_shards, "num_clients * shards_per_client")
        _, labels = client_codes(columns[self.label], self.label)
        rng = generator(self.seed, PARTITION)
        # Within a label the examples are in random order.
        rows = permutation(rng, num_examples)
        rows = rows[np.argsort(labels[rows], kind="stable")]
        shards = np.array_split(rows, num_shards)
        dealt = permutation(rng, num_shards).reshape(self.num_clients, -1)
        return named(np.concatenate([shards[i] for i in d]) for d in dealt)
