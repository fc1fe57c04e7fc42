"""A fixed number of clients, each from a part of the population of its own."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from ..._check import check_count, check_seed, checked
from ..._words import shown
from .._arrays import as_numbers
from .._random import generator, SAMPLE, uniforms
from .base import AbstractSampler
from .weighted import as_weights


class ClusteredSampler(AbstractSampler):
    r"""`cohort_size` draws, in proportion to the clients' weights, each from a
    distribution of its own.

    The clients are laid on a line, those with the greatest weights first, and each
    takes up as much of it as its weight. The line is cut into `cohort_size` pieces of
    the same length, and from each piece one client is drawn, with a chance in
    proportion to how much of the piece is its. With $r_{k, i}$ the chance of client $i$
    in the $k$-th draw of $m$, and $p_i$ its share of all weights,

    $$\sum_i r_{k, i} = 1, \qquad \sum_k r_{k, i} = m p_i,$$

    so that the plain mean of what is drawn, by [`equifed.UniformMean`][], is $\sum_i
    p_i m_i$ on average, as with [`equifed.data.WeightedSampler`][] and `replace=True`.
    But clients are drawn more evenly, and the variance is never greater. One whose
    weight is more than a piece may be drawn more than once.

    Any other order of the line is as right. Where clients that are alike lie beside one
    another, a round has some of each kind: that is what `order` is for. (The paper's
    Algorithm 2 finds who is alike from the clients' last updates, which no sampler
    sees.)

    Source: [Clustered Sampling: Low-Variance and Improved Representativity for Clients
    Selection in Federated Learning](https://arxiv.org/abs/2105.05883), Algorithm 1.
    """

    cohort_size: int
    weights: Float[np.ndarray, " clients"]
    order: Int[np.ndarray, " clients"]
    seed: int

    @checked()
    def __init__(
        self,
        cohort_size: int,
        weights: ArrayLike | Sequence,
        *,
        order: ArrayLike | Sequence | None = None,
        seed: int = 0,
    ):
        """**Arguments:**

        - `cohort_size`: The number of draws in a round.
        - `weights`: One non-negative number for each client of the population:
            `dataset.client_sizes`.
        - `order`: The numbers of all clients, as they lie on the line; by weight if
            not given.
        - `seed`: The seed of all rounds.
        """
        self.cohort_size = check_count("cohort_size", cohort_size)
        self.weights = as_weights(weights)
        if not self.weights.any():
            raise ValueError("`weights` are all 0. Give some client a positive one.")
        by_weight = np.argsort(-self.weights, kind="stable")
        self.order = by_weight if order is None else _as_order(order, by_weight)
        self.seed = check_seed(seed)

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        if len(self.weights) != num_clients:
            raise ValueError(
                f"`weights` has {len(self.weights)} entries, but the population has "
                f"{num_clients} clients. Give one weight for each client."
            )
        rng = generator(self.seed, SAMPLE, round)
        ends = np.cumsum(self.weights[self.order])
        pieces = np.arange(self.cohort_size) + uniforms(rng, self.cohort_size)
        places = pieces * (ends[-1] / self.cohort_size)
        last = np.flatnonzero(self.weights[self.order])[-1]
        drawn = np.minimum(np.searchsorted(ends, places, side="right"), last)
        return self.order[drawn]

    def max_clients(self, num_clients: int) -> int:
        return self.cohort_size


def _as_order(order, expected: np.ndarray) -> Int[np.ndarray, " clients"]:
    given = as_numbers(order)
    if given is None or not np.array_equal(np.sort(given), np.sort(expected)):
        raise ValueError(
            "`order` must have the number of every client once, from 0 to "
            f"{len(expected) - 1}, got {shown(order)}. Leave it out to order them by "
            "weight."
        )
    return given
