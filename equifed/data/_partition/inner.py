"""Clients of given sizes with skewed labels."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import ArrayLike, Float, Int, Shaped

from ..._check import check_number, check_seed, checked
from ..._words import shown
from .._ids import client_codes
from .._random import dirichlet, generator, integers, PARTITION, permutation, uniforms
from .base import AbstractPartition, as_sizes, check_sum, named


class InnerDirichletPartition(AbstractPartition):
    """Clients of given sizes, each with a distribution of labels of its own, which is
    drawn from a Dirichlet distribution.

    Examples are given out one by one. Each time one of the clients that want more is
    drawn, uniformly, and then a label from its distribution. A label that has run out
    is left out of all distributions; a client of whose labels none is left draws from
    all that are left, by their numbers.

    Against [`equifed.data.DirichletPartition`][] with `balanced=True` the sizes are
    free, a label's concentration does not follow its frequency, and no client is the
    last one, to whom the others leave what they do not want.

    ??? cite "Reference"

        ```bibtex
        @inproceedings{acar2021federated,
            title={Federated Learning Based on Dynamic Regularization},
            author={Acar, Durmus Alp Emre and Zhao, Yue and Navarro, Ramon Matas and
                Mattina, Matthew and Whatmough, Paul N. and Saligrama, Venkatesh},
            booktitle={ICLR},
            year={2021},
        }
        ```
    """

    sizes: tuple[int, ...]
    alpha: float | tuple[float, ...]
    label: str
    seed: int

    @checked()
    def __init__(
        self,
        sizes: Sequence[int] | Int[np.ndarray, " clients"],
        alpha: ArrayLike | Sequence[float],
        *,
        label: str = "label",
        seed: int = 0,
    ):
        """**Arguments:**

        - `sizes`: The number of examples of each client. They add up to the number of
            examples that there are.
        - `alpha`: The concentration; positive. One number, or one for each label, the
            labels in their natural order.
        - `label`: The column of labels.
        - `seed`: The seed of the split.
        """
        self.sizes = as_sizes(sizes)
        alphas = np.asarray(alpha)
        if alphas.ndim > 1 or alphas.size == 0:
            raise ValueError(
                "`alpha` must be one number, or a list of one for each label, got "
                f"{shown(alpha)}."
            )
        for number in [alpha] if alphas.ndim == 0 else alphas:
            check_number("alpha", number, least=0, strict=True)
        self.alpha = float(alphas) if alphas.ndim == 0 else tuple(map(float, alphas))
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
        check_sum(self.sizes, num_examples)
        names, labels = client_codes(columns[self.label], self.label)
        alphas = np.asarray(self.alpha)
        if alphas.ndim == 1 and len(alphas) != len(names):
            raise ValueError(
                f"`alpha` has {len(alphas)} numbers, but column {self.label!r} has "
                f"{len(names)} labels; it needs one for each, or is one number."
            )
        rng = generator(self.seed, PARTITION)
        rows = permutation(rng, num_examples)
        pools = [list(rows[labels[rows] == label]) for label in range(len(names))]
        alphas = np.broadcast_to(alphas, (len(names),))
        skews = np.stack([dirichlet(rng, alphas) for _ in self.sizes])
        return named(self._deal(pools, skews, rng))

    def _deal(
        self,
        pools: list[list],
        skews: Float[np.ndarray, "clients labels"],
        rng: np.random.Generator,
    ) -> list[Int[np.ndarray, "_"]]:
        clients: list[list] = [[] for _ in self.sizes]
        wanting = [i for i, size in enumerate(self.sizes) if size > 0]
        left = np.array([len(pool) for pool in pools])
        ends = _ends(skews, left)
        total = sum(self.sizes)
        turns, draws = integers(rng, 2**62, total), uniforms(rng, total)
        for turn, draw in zip(turns, draws, strict=True):
            client = wanting[turn % len(wanting)]
            own = ends[client]
            # The first end at or above the draw: never that of a label without a share.
            label = int(own.searchsorted(draw * own[-1]))
            clients[client].append(pools[label].pop())
            if not pools[label]:
                left = np.array([len(pool) for pool in pools])
                ends = _ends(skews, left)
            if len(clients[client]) == self.sizes[client]:
                wanting.remove(client)
        return [np.array(rows, np.int64) for rows in clients]


def _ends(
    skews: Float[np.ndarray, "clients labels"], left: Int[np.ndarray, " labels"]
) -> Float[np.ndarray, "clients labels"]:
    """Where each label's part ends, for a draw between 0 and the last end."""
    shares = np.where(left > 0, skews, 0.0)
    none = ~(shares > 0).any(axis=1, keepdims=True)
    shares = np.where(none, left.astype(np.float64), shares)
    # What a small concentration leaves may be too small to be multiplied by a draw.
    largest = np.maximum(shares.max(axis=1, keepdims=True), np.finfo(float).tiny)
    return np.cumsum(shares / largest, axis=1)
