"""Clients whose numbers of examples of each label are given."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, Shaped

from ..._check import check_count, check_seed, checked
from ..._words import shown
from .._ids import client_codes
from .._random import generator, PARTITION, permutation
from .base import AbstractPartition, named


class DistributionPartition(AbstractPartition):
    r"""Clients that have a few labels each, of which they have what a table says.

    The table has a row for each of the $L$ labels, in their natural order. Client $i$
    has the labels $i, i + 1, ..., i + k - 1$ modulo $L$; so a label has as many clients
    as the table has columns, in the order of their numbers. Of a label of $m$
    examples, where everybody is to have at least $s$ and its row is $t$, client $j$ of
    its $c$ has $s + (m - c s) t_j / \sum_j t_j$, up to rounding. Every example is given
    to exactly one client.

    !!! example

        The power law of Li et al. on MNIST, for 1,000 clients with two digits each:

        ```python
        shares = np.random.default_rng(0).lognormal(0.0, 2.0, (10, 1000 * 2 // 10))
        partition = DistributionPartition(shares, labels_per_client=2, min_size=5)
        ```

    ??? cite "Reference"

        ```bibtex
        @inproceedings{li2020federated,
            title={Federated Optimization in Heterogeneous Networks},
            author={Li, Tian and Sahu, Anit Kumar and Zaheer, Manzil and Sanjabi, Maziar
                and Talwalkar, Ameet and Smith, Virginia},
            booktitle={MLSys},
            year={2020},
        }
        ```
    """

    shares: Float[np.ndarray, "labels owners"]
    labels_per_client: int
    label: str
    min_size: int
    seed: int

    @checked()
    def __init__(
        self,
        shares: Float[np.ndarray, "labels owners"] | Int[np.ndarray, "labels owners"],
        labels_per_client: int = 2,
        *,
        label: str = "label",
        min_size: int = 0,
        seed: int = 0,
    ):
        """**Arguments:**

        - `shares`: The table; not negative, and in each row something is positive. Its
            number of columns is a multiple of `labels_per_client`. There are
            `num_labels * num_columns / labels_per_client` clients. Rows that add up to
            the labels' numbers of examples are these, to the example.
        - `labels_per_client`: How many labels each client has.
        - `label`: The column of labels.
        - `min_size`: The fewest examples of each of its labels that a client may have.
        - `seed`: The seed of the split.
        """
        self.labels_per_client = check_count("labels_per_client", labels_per_client)
        self.label = label
        self.min_size = check_count("min_size", min_size, least=0)
        self.seed = check_seed(seed)
        self.shares = np.array(shares, np.float64)
        self.shares.flags.writeable = False
        positive = np.isfinite(self.shares).all() and (self.shares >= 0).all()
        if not positive or not (self.shares > 0).any(axis=1).all():
            raise ValueError(
                "`shares` must be finite and not negative, with something positive in "
                f"each row, got {shown(shares)} that is not."
            )
        num_labels, owners = self.shares.shape
        if self.labels_per_client > num_labels or owners % self.labels_per_client:
            raise ValueError(
                f"`labels_per_client` is {labels_per_client}, but `shares` has "
                f"{num_labels} rows and {owners} columns: a client can have no more "
                "labels than rows, and the number of columns must be a multiple of it."
            )

    @property
    def num_clients(self) -> int:
        return self.shares.size // self.labels_per_client

    @property
    def column_names(self) -> tuple[str, ...]:
        return (self.label,)

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        names, labels = client_codes(columns[self.label], self.label)
        num_labels, owners = self.shares.shape
        if len(names) != num_labels:
            raise ValueError(
                f"`shares` has {num_labels} rows, but column {self.label!r} has "
                f"{len(names)} labels; it needs a row for each."
            )
        rows = permutation(generator(self.seed, PARTITION), num_examples)
        clients: list[list] = [[] for _ in range(self.num_clients)]
        for number, name in enumerate(names):
            pool = rows[labels[rows] == number]
            if (spare := len(pool) - owners * self.min_size) < 0:
                raise ValueError(
                    f"Label {name!r} of column {self.label!r} has {len(pool)} "
                    f"examples, too few to give {owners} clients `min_size`, "
                    f"{self.min_size}, of them. Lower `min_size`."
                )
            shares = np.cumsum(self.shares[number])
            cuts = np.rint(shares[:-1] / shares[-1] * spare).astype(np.int64)
            cuts += self.min_size * np.arange(1, owners)
            for client, part in zip(
                self._owners(number), np.split(pool, cuts), strict=True
            ):
                clients[client].append(part)
        return named(np.concatenate(parts) for parts in clients)

    def _owners(self, label: int) -> Int[np.ndarray, " owners"]:
        """The clients that have a label."""
        numbers = np.arange(self.num_clients)
        num_labels = len(self.shares)
        return numbers[(label - numbers) % num_labels < self.labels_per_client]
