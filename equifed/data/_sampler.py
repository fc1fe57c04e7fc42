"""Who takes part in a round.

A sampler is a pure function of the round (and of its own seed), so a run may be
resumed at any round, rounds may be prepared ahead by another thread, and several
processes agree on the cohort without talking to each other. Samplers draw client
*numbers*, from 0 to `num_clients - 1`, and know nothing else of the clients.
"""

import abc
import functools

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from ._random import (
    check_count,
    check_seed,
    generator,
    integers,
    permutation,
    SAMPLE,
    uniforms,
)


class AbstractSampler(eqx.Module):
    """Draws the clients of each round.

    `seed` is also the seed of the order in which the clients visit their examples.
    """

    seed: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        """Draws the clients of a round.

        **Arguments:**

        - `round`: The number of the round, from 0.
        - `num_clients`: The size of the population.

        **Returns:**

        The numbers of the clients that take part.
        """

    @abc.abstractmethod
    def max_clients(self, num_clients: int) -> int:
        """The most clients that a round can have."""


class UniformSampler(AbstractSampler):
    """Every set of `cohort_size` different clients with the same probability."""

    cohort_size: int
    seed: int

    def __init__(self, cohort_size: int, *, seed: int = 0):
        """**Arguments:**

        - `cohort_size`: The number of clients in a round.
        - `seed`: The seed of all rounds.
        """
        self.cohort_size = cohort_size
        self.seed = seed

    def __check_init__(self):
        check_count("cohort_size", self.cohort_size)
        check_seed(self.seed)

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        _check_cohort_size(self.cohort_size, num_clients)
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

    def max_clients(self, num_clients: int) -> int:
        return self.cohort_size


class PoissonSampler(AbstractSampler):
    """Every client independently with probability `rate`.

    The number of clients varies from round to round around `rate * num_clients`, and
    may be zero. Accounting for differential privacy usually assumes this sampling.
    """

    rate: float
    seed: int

    def __init__(self, rate: float, *, seed: int = 0):
        """**Arguments:**

        - `rate`: The probability with which a client takes part in a round.
        - `seed`: The seed of all rounds.
        """
        self.rate = rate
        self.seed = seed

    def __check_init__(self):
        if not 0 < self.rate <= 1:
            raise ValueError(
                f"`rate` must be a probability in (0, 1], got {self.rate}. For an "
                "expected cohort of n clients divide n by the number of clients."
            )
        check_seed(self.seed)

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        if self.rate == 1:
            return np.arange(num_clients)
        # The gaps between the clients that take part are geometric, so those who do
        # not take part need not be visited.
        rng = generator(self.seed, SAMPLE, round)
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
        return num_clients


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

    def __init__(
        self,
        cohort_size: int,
        weights: Float[np.ndarray, " clients"] | Int[np.ndarray, " clients"],
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
        self.cohort_size = cohort_size
        self.weights = np.asarray(weights, np.float64)
        self.replace = replace
        self.seed = seed

    def __check_init__(self):
        check_count("cohort_size", self.cohort_size)
        check_seed(self.seed)
        if self.weights.ndim != 1 or not np.all(np.isfinite(self.weights)):
            raise ValueError(
                "`weights` must be one finite number for each client, got an array of "
                f"shape {self.weights.shape}"
                + (
                    " with values that are not finite."
                    if self.weights.ndim == 1
                    else "."
                )
            )
        if np.any(self.weights < 0):
            client = int(np.argmax(self.weights < 0))
            raise ValueError(
                "`weights` must not be negative, got "
                f"{self.weights[client]} for client {client}."
            )
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

    def max_clients(self, num_clients: int) -> int:
        return self.cohort_size


class AllClients(AbstractSampler):
    """Every client, in every round."""

    seed: int

    def __init__(self, *, seed: int = 0):
        """**Arguments:**

        - `seed`: The seed of the order in which the clients visit their examples.
        """
        self.seed = seed

    def __check_init__(self):
        check_seed(self.seed)

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        return np.arange(num_clients)

    def max_clients(self, num_clients: int) -> int:
        return num_clients


class ShuffledSampler(AbstractSampler):
    """Passes over the population, each in a new random order.

    The passes are strung together and cut into cohorts of `cohort_size` clients. Each
    pass visits every client exactly once. Where a cohort straddles two passes, those
    clients of the new pass that the cohort holds already are put off until just after
    it, so that no cohort holds a client twice.
    """

    cohort_size: int
    seed: int

    def __init__(self, cohort_size: int, *, seed: int = 0):
        """**Arguments:**

        - `cohort_size`: The number of clients in a round.
        - `seed`: The seed of all rounds.
        """
        self.cohort_size = cohort_size
        self.seed = seed

    def __check_init__(self):
        check_count("cohort_size", self.cohort_size)
        check_seed(self.seed)

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        _check_cohort_size(self.cohort_size, num_clients)
        start = round * self.cohort_size
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


def _check_cohort_size(cohort_size: int, num_clients: int) -> None:
    if cohort_size > num_clients:
        raise ValueError(
            f"`cohort_size` is {cohort_size}, but the population has only "
            f"{num_clients} clients. Draw at most {num_clients}, or use "
            "`AllClients()`."
        )


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
