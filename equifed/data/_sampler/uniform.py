"""A fixed number of clients, all with the same chance."""

import numpy as np
from jaxtyping import Bool, Int

from ..._check import check_count, check_seed, checked
from .._random import generator, Generators, integers, permutation, SAMPLE
from .base import AbstractSampler, Among, check_cohort_size
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
        size, seed = self.cohort_size, self.seed
        return _first(size, size, generator(seed, SAMPLE, round), num_clients)

    def among(
        self, round: int, there: Bool[np.ndarray, " population"]
    ) -> Int[np.ndarray, " clients"]:
        clients = np.flatnonzero(there)
        if len(clients) <= self.cohort_size:
            return clients
        return clients[self(round, len(clients))]

    def under_clock(self) -> Among:
        # Where few places are free, those beyond would be drawn in vain: the first of
        # `among` are drawn alone. What is read of a module once is read here, as that
        # takes longer than to draw one client.
        size, rng = self.cohort_size, Generators(self.seed, SAMPLE)

        def draws(round, there, most):
            clients = np.flatnonzero(there)
            if len(clients) <= size:
                return clients
            wanted = size if most is None else min(most, size)
            return clients[_first(wanted, size, rng(round), len(clients))]

        return draws

    def max_clients(self, num_clients: int) -> int:
        return self.cohort_size

    def participation(self, num_clients: int) -> FixedSizeParticipation:
        check_cohort_size(self.cohort_size, num_clients)
        return FixedSizeParticipation(self.cohort_size, num_clients)


def _first(
    wanted: int, cohort_size: int, rng: np.random.Generator, num_clients: int
) -> Int[np.ndarray, " wanted"]:
    """The first of `cohort_size` different clients, in the order in which they are
    drawn."""
    if 4 * cohort_size > num_clients:
        return permutation(rng, num_clients)[:wanted]
    # Draw until there are enough different ones: the cost is that of the cohort, not
    # of the population.
    drawn = integers(rng, num_clients, wanted).tolist()
    while len(found := list(dict.fromkeys(drawn))) < wanted:
        drawn = found + integers(rng, num_clients, wanted - len(found)).tolist()
    return np.array(found, np.int64)
