"""What a mechanism is: an aggregator of which a plan can account."""

import abc

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from .._aggregator import AbstractAggregator
from ..data._sampler import Participation
from .accounting import Accounted


class AbstractMechanism(AbstractAggregator):
    """Makes one noised aggregate of a cohort's messages."""

    noise_multiplier: eqx.AbstractVar[Float[Array, ""]]
    """The standard deviation of the fresh noise of a round's sum over the bound on the
    norm of one client's message."""
    expected_clients: eqx.AbstractVar[Float[Array, ""]]
    """What the sum is divided by."""

    @property
    @abc.abstractmethod
    def most_rounds(self) -> int | None:
        """For how many rounds it is made, if not for any number."""

    @property
    @abc.abstractmethod
    def reports(self) -> tuple[str, ...]:
        """The names of its metrics, all of which are covered by its noise."""

    @abc.abstractmethod
    def covered(self, encoded: PyTree) -> PyTree:
        """Which leaves of the sum of what was encoded get noise in `decode`, before
        anything else becomes of them: a truth value for each."""

    @abc.abstractmethod
    def check(self, participation: Participation) -> None:
        """Refuses a way of taking part that it cannot account for."""

    @abc.abstractmethod
    def account(
        self, participation: Participation, noise_multiplier: float, num_rounds: int
    ) -> Accounted:
        """What there is to account for in the first `num_rounds` rounds."""
