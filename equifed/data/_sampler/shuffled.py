"""Every client equally often: passes over the population, cut into cohorts."""

import functools

import numpy as np
from jaxtyping import Int

from ..._check import check_count, check_seed, checked
from .._random import generator, permutation, SAMPLE
from .base import AbstractSampler, check_cohort_size
from .participation import OrderedParticipation


class ShuffledSampler(AbstractSampler):
    """Passes over the population, each in a new random order, or all in the same.

    The passes are strung together and cut into cohorts of `cohort_size` clients. Each
    pass visits every client exactly once. Where a cohort straddles two passes, those
    clients of the new pass that the cohort holds already are put off until just after
    it, so that no cohort holds a client twice.

    With `reshuffle=False` all passes are in the order of the first, so that between two
    rounds of a client there are always about as many as in a pass: at least
    `num_clients // cohort_size`, which correlated noise for privacy asks for.
    """

    cohort_size: int
    reshuffle: bool
    seed: int

    @checked()
    def __init__(self, cohort_size: int, *, reshuffle: bool = True, seed: int = 0):
        """**Arguments:**

        - `cohort_size`: The number of clients in a round.
        - `reshuffle`: Whether each pass has an order of its own.
        - `seed`: The seed of all rounds.
        """
        self.cohort_size = check_count("cohort_size", cohort_size)
        self.reshuffle = bool(reshuffle)
        self.seed = check_seed(seed)

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        check_cohort_size(self.cohort_size, num_clients)
        start = round * self.cohort_size
        if not self.reshuffle:
            places = np.arange(start, start + self.cohort_size) % num_clients
            return _shuffled(self.seed, 0, num_clients)[places]
        number, place = divmod(start, num_clients)
        clients = _pass(self.seed, number, num_clients, self.cohort_size)
        cohort = clients[place : place + self.cohort_size]
        missing = self.cohort_size - len(cohort)
        if missing == 0:
            return cohort
        after = _pass(self.seed, number + 1, num_clients, self.cohort_size)
        return np.concatenate([cohort, after[:missing]])

    def max_clients(self, num_clients: int) -> int:
        return self.cohort_size

    def participation(self, num_clients: int) -> OrderedParticipation:
        check_cohort_size(self.cohort_size, num_clients)
        separation = 1 if self.reshuffle else num_clients // self.cohort_size
        return OrderedParticipation(self.cohort_size, num_clients, separation)


# Remembered because consecutive rounds need the same pass; still a pure function.
@functools.lru_cache(maxsize=4)
def _shuffled(seed: int, number: int, num_clients: int) -> Int[np.ndarray, " clients"]:
    clients = permutation(generator(seed, SAMPLE, number), num_clients)
    clients.flags.writeable = False
    return clients


@functools.lru_cache(maxsize=4)
def _pass(
    seed: int, number: int, num_clients: int, cohort_size: int
) -> Int[np.ndarray, " clients"]:
    """A pass, reordered so that its first cohort is free of the last pass's clients."""
    # Reordering touches no more than the first `cohort_size` places. If that leaves
    # the end of the pass alone, the next pass needs to know the shuffled pass only;
    # otherwise go back to a pass that does not depend on the one before it.
    begin = number
    while _carried(begin, num_clients, cohort_size) > 0:
        begin -= 1
        if cohort_size + _carried(begin + 1, num_clients, cohort_size) <= num_clients:
            break
    clients = _shuffled(seed, begin, num_clients)
    for i in range(begin + 1, number + 1):
        carried = _carried(i, num_clients, cohort_size)
        taken = np.zeros(num_clients, bool)
        taken[clients[num_clients - carried :]] = True
        clients = _shuffled(seed, i, num_clients)
        free = np.flatnonzero(~taken[clients])[: cohort_size - carried]
        rest = np.delete(np.arange(num_clients), free)
        clients = clients[np.concatenate([free, rest])]
        clients.flags.writeable = False
    return clients


def _carried(number: int, num_clients: int, cohort_size: int) -> int:
    """How many clients of the pass before are in the cohort in which a pass begins."""
    return number * num_clients % cohort_size
