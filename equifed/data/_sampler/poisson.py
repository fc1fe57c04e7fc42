"""A random number of clients, each of which decides for itself."""

import numpy as np
from jaxtyping import ArrayLike, Int

from ..._check import check_count, check_number, check_seed, checked
from .._random import generator, permutation, SAMPLE, uniforms
from .base import AbstractSampler
from .participation import OrderedParticipation, PoissonParticipation


class PoissonSampler(AbstractSampler):
    """Every client independently with probability `rate`.

    The number of clients varies from round to round around `rate * num_clients`, and
    may be zero. Accounting for differential privacy usually assumes this sampling.

    With `most`, a random `most` of the clients stay in a round that would have more
    (truncated Poisson sampling, arXiv 2508.15089), so that the room for a round, and
    its memory, is that of `most` clients rather than of the population.
    """

    rate: float
    most: int | None
    seed: int

    @checked()
    def __init__(self, rate: ArrayLike, *, most: int | None = None, seed: int = 0):
        """**Arguments:**

        - `rate`: The probability with which a client takes part in a round.
        - `most`: The most clients that a round can have; all of them if not given.
        - `seed`: The seed of all rounds.
        """
        check_number("rate", rate)
        rate = float(np.asarray(rate))
        if not 0 < rate <= 1:
            raise ValueError(
                f"`rate` must be a probability in (0, 1], got {rate}. For an "
                "expected cohort of n clients divide n by the number of clients."
            )
        self.rate = rate
        self.most = None if most is None else check_count("most", most)
        self.seed = check_seed(seed)

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        rng = generator(self.seed, SAMPLE, round)
        clients = self._drawn(rng, num_clients)
        if self.most is None or len(clients) <= self.most:
            return clients
        return clients[np.sort(permutation(rng, len(clients))[: self.most])]

    def _drawn(
        self, rng: np.random.Generator, num_clients: int
    ) -> Int[np.ndarray, " clients"]:
        if self.rate == 1:
            return np.arange(num_clients)
        # The gaps between the clients that take part are geometric, so those who do
        # not take part need not be visited.
        size = int(self.rate * num_clients) + 16
        drawn, last = [], -1
        while last < num_clients:
            gaps = np.log(uniforms(rng, size)) / np.log1p(-self.rate)
            gaps = np.minimum(gaps, num_clients).astype(np.int64) + 1
            places = last + np.cumsum(gaps)
            drawn.append(places)
            last = int(places[-1])
        clients = np.concatenate(drawn)
        return clients[clients < num_clients]

    def max_clients(self, num_clients: int) -> int:
        return num_clients if self.most is None else min(self.most, num_clients)

    def participation(
        self, num_clients: int
    ) -> PoissonParticipation | OrderedParticipation:
        most = None if self.max_clients(num_clients) == num_clients else self.most
        if self.rate == 1 and most is None:
            return OrderedParticipation(num_clients, num_clients, min_separation=1)
        return PoissonParticipation(self.rate, num_clients, most)
