"""Clients that differ in labels, by drawing from a Dirichlet distribution."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import ArrayLike, Int, Shaped

from ..._check import check_count, check_number, check_seed, checked
from .._ids import client_codes
from .._random import dirichlet, generator, PARTITION, permutation, uniforms
from .base import AbstractPartition, check_enough, named


class DirichletPartition(AbstractPartition):
    """Clients with skewed labels, by a Dirichlet distribution of concentration `alpha`.

    A small `alpha` gives clients with one or two labels, a large one tends to the
    independent and identically distributed case. There are two ways to use it:

    - `balanced=False`: each label's examples are divided among the clients in
        proportions drawn from `Dirichlet(alpha, ..., alpha)`. The clients' sizes vary
        too. The draw is repeated until every client has `min_size` examples. With
        `self_balancing=True` a client that has its share of all examples, or more,
        gets none of the labels that are divided after.
    - `balanced=True`: each client draws the distribution of its labels from
        `Dirichlet(alpha * p)`, where `p` is that of the whole set, and then as many
        examples as any other client. A label that has run out is left out, so the last
        clients are less skewed. This is the partition of Hsu et al.

    Every example is given to exactly one client.

    ??? cite "Reference"

        ```bibtex
        @article{hsu2019measuring,
            title={Measuring the Effects of Non-Identical Data Distribution for
                Federated Visual Classification},
            author={Hsu, Tzu-Ming Harry and Qi, Hang and Brown, Matthew},
            journal={arXiv preprint arXiv:1909.06335},
            year={2019},
        }
        ```
    """

    num_clients: int
    alpha: float
    label: str
    balanced: bool
    self_balancing: bool
    min_size: int
    seed: int

    @checked()
    def __init__(
        self,
        num_clients: int,
        alpha: ArrayLike,
        *,
        label: str = "label",
        balanced: bool = False,
        self_balancing: bool = False,
        min_size: int = 0,
        seed: int = 0,
    ):
        """**Arguments:**

        - `num_clients`: The number of clients.
        - `alpha`: The concentration; positive.
        - `label`: The column of labels.
        - `balanced`: Whether all clients have the same size (up to one example).
        - `self_balancing`: Whether clients that have enough get no more of the labels
            that come after; not with `balanced`.
        - `min_size`: The fewest examples that a client may have.
        - `seed`: The seed of the split.
        """
        check_number("alpha", alpha, least=0, strict=True)
        self.num_clients = check_count("num_clients", num_clients)
        self.alpha = float(np.asarray(alpha))
        self.label = label
        if balanced and self_balancing:
            raise ValueError(
                "`self_balancing` is for clients of different sizes, but `balanced` "
                "gives all of them the same. Leave out one of the two."
            )
        self.balanced = bool(balanced)
        self.self_balancing = bool(self_balancing)
        self.min_size = check_count("min_size", min_size, least=0)
        self.seed = check_seed(seed)

    @property
    def column_names(self) -> tuple[str, ...]:
        return (self.label,)

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        needed = self.num_clients * self.min_size
        check_enough(num_examples, needed, "num_clients * min_size")
        _, labels = client_codes(columns[self.label], self.label)
        rng = generator(self.seed, PARTITION)
        rows = permutation(rng, num_examples)
        pools = [rows[labels[rows] == label] for label in range(labels.max() + 1)]
        if self.balanced:
            return named(self._draw(pools, num_examples, rng))
        for _ in range(1000):
            clients = self._divide(pools, rng)
            if min(len(c) for c in clients) >= self.min_size:
                return named(clients)
        raise ValueError(
            f"No draw of `DirichletPartition({self.num_clients}, {self.alpha})` in "
            f"1000 gave each client {self.min_size} of the {num_examples} examples. "
            "Raise `alpha`, or lower `min_size` or `num_clients`."
        )

    def _divide(self, pools, rng):
        clients = [[] for _ in range(self.num_clients)]
        enough = sum(map(len, pools)) / self.num_clients
        for pool in pools:
            shares = dirichlet(rng, np.full(self.num_clients, float(self.alpha)))
            if self.self_balancing:
                sizes = np.array([sum(map(len, parts)) for parts in clients])
                shares = np.where(sizes < enough, shares, 0.0)
                # Of those who want more, none may have drawn a share that counts.
                shares = shares if shares.any() else np.where(sizes < enough, 1.0, 0.0)
                shares /= max(shares.sum(), np.finfo(float).tiny)
            cuts = np.rint(np.cumsum(shares)[:-1] * len(pool)).astype(np.int64)
            for client, part in zip(clients, np.split(pool, cuts), strict=True):
                client.append(part)
        return [np.concatenate(parts) for parts in clients]

    def _draw(self, pools, num_examples, rng):
        left = np.array([len(pool) for pool in pools])
        prior = left / left.sum()
        sizes = np.diff(
            np.arange(self.num_clients + 1) * num_examples // self.num_clients
        )
        for size in sizes:
            skew = dirichlet(rng, self.alpha * prior)
            counts = np.zeros(len(pools), np.int64)
            while (missing := int(size - counts.sum())) > 0:
                shares = np.where(counts < left, skew, 0.0)
                if not shares.any():
                    shares = (left - counts).astype(np.float64)
                ends = np.cumsum(shares)
                draws = uniforms(rng, missing) * ends[-1]
                labels = np.searchsorted(ends, draws, side="right")
                labels = np.minimum(labels, np.flatnonzero(shares)[-1])
                counts += np.bincount(labels, minlength=len(pools))
                counts = np.minimum(counts, left)
            ends = left
            left = left - counts
            yield np.concatenate(
                [pool[a:b] for pool, a, b in zip(pools, left, ends, strict=True)]
            )
