"""A fixed number of clients, all with the same chance."""

import numpy as np
from jaxtyping import Bool, Int

from ..._check import check_count, check_seed, checked
from .._random import generator, integers, permutation, SAMPLE
from .base import AbstractSampler, check_cohort_size
from .participation import FixedSizeParticipation


class UniformSampler(AbstractSampler):
    """Every set of `cohort_size` different clients with the same probability."""

    cohort_size: int
    seed: int

    @checked()
    def __init__(self, cohort_size: int, *, seed: int = 0):
        """**Arguments:**

        - `cohort_size`: The number of clients in a round.
        - `seed`: The seed of all rounds.
        """
        self.cohort_size = check_count("cohort_size", cohort_size)
        self.seed = check_seed(seed)

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        check_cohort_size(self.cohort_size, num_clients)
        rng = generator(self.seed, SAMPLE, round)
        if 4 * self.cohort_size > num_clients:
            return permutation(rng, num_clients)[: self.cohort_size]
        # Draw until there are enough different ones: the cost is that of the cohort,
        # not of the population.
        drawn = np.empty(0, np.int64)
        while True:
            drawn = np.append(drawn, integers(rng, num_clients, self.cohort_size))
            _, places = np.unique(drawn, return_index=True)
            if len(places) >= self.cohort_size:
                return drawn[np.sort(places)[: self.cohort_size]]

    def among(
        self, round: int, there: Bool[np.ndarray, " population"]
    ) -> Int[np.ndarray, " clients"]:
        clients = np.flatnonzero(there)
        if len(clients) <= self.cohort_size:
            return clients
        return clients[self(round, len(clients))]

    def max_clients(self, num_clients: int) -> int:
        return self.cohort_size

    def participation(self, num_clients: int) -> FixedSizeParticipation:
        check_cohort_size(self.cohort_size, num_clients)
        return FixedSizeParticipation(self.cohort_size, num_clients)
