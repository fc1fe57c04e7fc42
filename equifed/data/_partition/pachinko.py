"""Clients with a topic: skewed labels of two levels."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import ArrayLike, Float, Int, Shaped

from ..._check import check_count, check_number, check_seed, checked
from .._ids import client_codes
from .._random import dirichlet, generator, PARTITION, permutation, uniforms
from .base import AbstractPartition, check_enough, named


class PachinkoPartition(AbstractPartition):
    r"""Clients of equal size (up to one example), each with a distribution of its own
    over coarse labels, and over the fine labels of each.

    The first is drawn from a symmetric Dirichlet distribution of concentration
    `coarse_alpha`, the others from ones of `fine_alpha`. A client draws its examples
    one by one: a coarse label, one of its fine labels, and an example of that which
    nobody has yet. What has run out is left out of the distributions. So CIFAR-100 is
    dealt to 500 training and 100 test clients in the benchmark of adaptive federated
    optimisation.

    Every example is given to exactly one client.

    ??? cite "Reference"

        Appendix F of

        ```bibtex
        @inproceedings{reddi2021adaptive,
            title={Adaptive Federated Optimization},
            author={Reddi, Sashank J. and Charles, Zachary and Zaheer, Manzil and
                Garrett, Zachary and Rush, Keith and Kone{\v{c}}n{\'y}, Jakub and
                Kumar, Sanjiv and McMahan, H. Brendan},
            booktitle={ICLR},
            year={2021},
        }
        ```
    """

    num_clients: int
    coarse_alpha: float
    fine_alpha: float
    coarse: str
    fine: str
    seed: int

    @checked()
    def __init__(
        self,
        num_clients: int,
        coarse_alpha: ArrayLike = 0.1,
        fine_alpha: ArrayLike = 10.0,
        *,
        coarse: str = "coarse_label",
        fine: str = "fine_label",
        seed: int = 0,
    ):
        """**Arguments:**

        - `num_clients`: The number of clients.
        - `coarse_alpha`: The concentration over coarse labels; positive.
        - `fine_alpha`: That over the fine labels of a coarse one; positive.
        - `coarse`, `fine`: The columns of labels. All examples of a fine label have
            one coarse label.
        - `seed`: The seed of the split.
        """
        check_number("coarse_alpha", coarse_alpha, least=0, strict=True)
        check_number("fine_alpha", fine_alpha, least=0, strict=True)
        self.num_clients = check_count("num_clients", num_clients)
        self.coarse_alpha = float(np.asarray(coarse_alpha))
        self.fine_alpha = float(np.asarray(fine_alpha))
        self.coarse = coarse
        self.fine = fine
        self.seed = check_seed(seed)

    @property
    def column_names(self) -> tuple[str, ...]:
        return (self.coarse, self.fine)

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        check_enough(num_examples, self.num_clients, "num_clients")
        _, coarse = client_codes(columns[self.coarse], self.coarse)
        names, fine = client_codes(columns[self.fine], self.fine)
        parents = np.zeros(len(names), np.int64)
        parents[fine] = coarse
        strays = np.flatnonzero(parents[fine] != coarse)
        if len(strays) > 0:
            raise ValueError(
                f"Label {names[fine[strays[0]]]!r} of column {self.fine!r} has "
                f"different labels of column {self.coarse!r}, one of them in row "
                f"{strays[0]}; a fine label needs one coarse label."
            )
        rng = generator(self.seed, PARTITION)
        rows = permutation(rng, num_examples)
        pools = [list(rows[fine[rows] == label]) for label in range(len(names))]
        bounds = np.arange(self.num_clients + 1) * num_examples // self.num_clients
        return named(
            self._client(size, pools, parents, rng) for size in np.diff(bounds).tolist()
        )

    def _client(
        self,
        size: int,
        pools: list[list],
        parents: Int[np.ndarray, " labels"],
        rng: np.random.Generator,
    ) -> Int[np.ndarray, "_"]:
        above = dirichlet(rng, np.full(parents.max() + 1, self.coarse_alpha))
        below = np.zeros(len(pools))
        for label in range(len(above)):
            own = np.flatnonzero(parents == label)
            below[own] = dirichlet(rng, np.full(len(own), self.fine_alpha))
        left = np.array([len(pool) for pool in pools])
        ends = _ends(above, below, parents, left)
        rows = []
        for draw in uniforms(rng, size):
            label = int(ends.searchsorted(draw * ends[-1]))
            rows.append(pools[label].pop())
            left[label] -= 1
            if left[label] == 0:
                ends = _ends(above, below, parents, left)
        return np.array(rows, np.int64)


def _ends(
    above: Float[np.ndarray, " topics"],
    below: Float[np.ndarray, " labels"],
    parents: Int[np.ndarray, " labels"],
    left: Int[np.ndarray, " labels"],
) -> Float[np.ndarray, " labels"]:
    """Where each fine label's part ends, for a draw between 0 and the last end. The
    share of a coarse label is divided among those of its fine labels that are left."""
    kept = np.where(left > 0, below, 0.0)
    sums = np.bincount(parents, kept, minlength=len(above))[parents]
    shares = above[parents] * kept / np.where(sums > 0, sums, 1.0)
    if not (shares > 0).any():
        shares = left.astype(np.float64)
    return np.cumsum(shares / max(shares.max(), np.finfo(float).tiny))
