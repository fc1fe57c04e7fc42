"""What a sampler is."""

import abc
from collections.abc import Callable

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Int

from ..._overrides import inherit_types
from .participation import Participation


Among = Callable[
    [int, Bool[np.ndarray, " population"], int | None], Int[np.ndarray, " clients"]
]


class AbstractSampler(eqx.Module):
    """Draws the clients of each round.

    `seed` is also the seed of the order in which the clients visit their examples.
    """

    seed: eqx.AbstractVar[int]

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

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

    def among(
        self, round: int, there: Bool[np.ndarray, " population"]
    ) -> Int[np.ndarray, " clients"]:
        """Draws from the clients that are there, under a clock.

        By default those that are drawn of all clients and are not there are left out.

        **Arguments:**

        - `round`: The number of the round, from 0.
        - `there`: Of each client of the population whether it is there.
        """
        drawn = self(round, len(there))
        return drawn[there[drawn]]

    def under_clock(self) -> Among:
        """How it draws in the rounds of one clock, which asks for one after another:
        `draws(round, there, most)`, of whom `most` are wanted, if that is not `None`.

        By default as `among` does. A sampler that goes by whom it drew before begins
        here, and remembers it.
        """
        # A bound method of a module is a module, which takes longer to make than to
        # draw.
        among = type(self).among
        return lambda round, there, most: among(self, round, there)

    def participation(self, num_clients: int) -> Participation | None:
        """How a client comes to take part, if this can be said: what
        [`equifed.privacy.PrivacyPlan`][] accounts for. `None` of a sampler of which
        nothing is known.

        **Arguments:**

        - `num_clients`: The size of the population.
        """
        return None


def check_cohort_size(cohort_size: int, num_clients: int) -> None:
    if cohort_size > num_clients:
        raise ValueError(
            f"`cohort_size` is {cohort_size}, but the population has only "
            f"{num_clients} clients. Draw at most {num_clients}, or use "
            "`AllClients()`."
        )
