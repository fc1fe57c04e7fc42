"""The population that a simulation stands for."""

import dataclasses
import math

import equinox as eqx

from .._check import check_count, checked
from ..data import OrderedParticipation, PoissonParticipation
from ..data._sampler import Participation


class Deployment(eqx.Module):
    """The population that a simulation stands for, where it is larger.

    The noise of a simulated mean over $m$ clients is then that of a mean over
    `cohort_size` of them (as papers on small simulations do it).
    """

    num_clients: int
    cohort_size: int

    @checked()
    def __init__(self, num_clients: int, cohort_size: int):
        """**Arguments:**

        - `num_clients`: the size of the population.
        - `cohort_size`: how many of them are drawn for a round, on average.
        """
        self.num_clients = check_count("num_clients", num_clients)
        self.cohort_size = check_count("cohort_size", cohort_size, most=num_clients)

    def like(self, there: Participation) -> Participation:
        """How its clients take part, where those of the simulation do it like that."""
        sizes = {"cohort_size": self.cohort_size, "num_clients": self.num_clients}
        if isinstance(there, PoissonParticipation):
            scale = self.cohort_size / there.expected
            # A cohort has room for one at least.
            most = None if there.most is None else math.ceil(there.most * scale - 1e-6)
            rate = self.cohort_size / self.num_clients
            return PoissonParticipation(rate, self.num_clients, most)
        ordered = isinstance(there, OrderedParticipation)
        everybody = ordered and there.cohort_size == there.num_clients
        if everybody and self.cohort_size < self.num_clients:
            raise ValueError(
                "All clients take part in every round here, so in the deployment too, "
                f"got a `cohort_size` of {self.cohort_size} of {self.num_clients}. "
                "Sample in the simulation as it will be done there, with "
                "`PoissonSampler`, `UniformSampler` or `ShuffledSampler`."
            )
        if ordered and there.min_separation > 1:
            sizes["min_separation"] = self.num_clients // self.cohort_size
        return dataclasses.replace(there, **sizes)
