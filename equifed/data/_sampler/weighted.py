"""A fixed number of clients, some more likely than others."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from ..._check import check_count, check_seed, checked
from .._random import generator, SAMPLE, uniforms
from .base import AbstractSampler


class WeightedSampler(AbstractSampler):
    """`cohort_size` clients, with probabilities in proportion to their weights.

    With `replace=True` the draws are independent, and a client may be drawn more than
    once. Otherwise the clients are drawn one after the other, each among those that
    are left.
    """

    cohort_size: int
    weights: Float[np.ndarray, " clients"]
    replace: bool
    seed: int

    @checked()
    def __init__(
        self,
        cohort_size: int,
        weights: ArrayLike | Sequence,
        *,
        replace: bool = False,
        seed: int = 0,
    ):
        """**Arguments:**

        - `cohort_size`: The number of clients in a round.
        - `weights`: One non-negative number for each client of the population, such
            as `dataset.client_sizes`.
        - `replace`: Whether a client may be drawn more than once in a round.
        - `seed`: The seed of all rounds.
        """
        self.cohort_size = check_count("cohort_size", cohort_size)
        self.weights = as_weights(weights)
        self.replace = bool(replace)
        self.seed = check_seed(seed)

    def __check_init__(self):
        positive = int(np.count_nonzero(self.weights))
        needed = 1 if self.replace else self.cohort_size
        if positive < needed:
            raise ValueError(
                f"`cohort_size` is {self.cohort_size}, but only {positive} of the "
                "`weights` are positive. Draw fewer clients, or pass `replace=True`."
            )

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        if len(self.weights) != num_clients:
            raise ValueError(
                f"`weights` has {len(self.weights)} entries, but the population has "
                f"{num_clients} clients. Give one weight for each client."
            )
        rng = generator(self.seed, SAMPLE, round)
        if self.replace:
            ends = np.cumsum(self.weights)
            draws = uniforms(rng, self.cohort_size) * ends[-1]
            last = np.flatnonzero(self.weights)[-1]
            return np.minimum(np.searchsorted(ends, draws, side="right"), last)
        # The first arrivals of a race between exponential variables with the weights
        # as rates (Efraimidis and Spirakis, 2006).
        with np.errstate(divide="ignore"):
            times = -np.log(uniforms(rng, num_clients)) / self.weights
        first = np.argpartition(times, self.cohort_size - 1)[: self.cohort_size]
        return first[np.argsort(times[first], kind="stable")]

    def among(
        self, round: int, there: Bool[np.ndarray, " population"]
    ) -> Int[np.ndarray, " clients"]:
        clients = np.flatnonzero(there & (self.weights > 0))
        if len(clients) == 0 or (len(clients) <= self.cohort_size and not self.replace):
            return clients
        own = WeightedSampler(
            self.cohort_size,
            self.weights[clients],
            replace=self.replace,
            seed=self.seed,
        )
        return clients[own(round, len(clients))]

    def max_clients(self, num_clients: int) -> int:
        return self.cohort_size


def as_weights(weights) -> Float[np.ndarray, " clients"]:
    given = np.asarray(weights)
    if given.ndim != 1 or given.dtype.kind not in "iuf":
        raise ValueError(
            "`weights` must be one finite number for each client, got an array of "
            f"shape {given.shape} and dtype {given.dtype}."
        )
    weights = given.astype(np.float64)
    bads = {"be finite": ~np.isfinite(weights), "not be negative": weights < 0}
    for words, bad in bads.items():
        if bad.any():
            client = int(np.argmax(bad))
            raise ValueError(
                f"`weights` must {words}, got {weights[client]} for client {client}."
            )
    return weights
