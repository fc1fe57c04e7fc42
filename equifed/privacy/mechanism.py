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
    """How large the fresh noise is over the bound on the norm of one client's message:
    that of a round's sum, unless the mechanism says otherwise."""
    expected_clients: eqx.AbstractVar[Float[Array, ""]]
    """What the sum is divided by: how many clients are drawn on average, before a
    truncated sample leaves any out."""

    @property
    @abc.abstractmethod
    def most_rounds(self) -> int | None:
        """For how many rounds it is made, if not for any number."""

    @property
    @abc.abstractmethod
    def reports(self) -> tuple[str, ...]:
        """The names of its metrics, all of which are covered by its noise."""

    @property
    def needs_all(self) -> bool:
        """Whether its noise is too small if a client that was drawn does not come."""
        return False

    @abc.abstractmethod
    def covered(self, encoded: PyTree) -> PyTree:
        """Which leaves of the sum of what was encoded are noised: in `encode`, or in
        `decode` before anything else becomes of them. A truth value for each."""

    @abc.abstractmethod
    def check(self, participation: Participation) -> None:
        """Refuses a way of taking part that it cannot account for."""

    @abc.abstractmethod
    def account(
        self, participation: Participation, noise_multiplier: float, num_rounds: int
    ) -> Accounted:
        """What there is to account for in the first `num_rounds` rounds."""

    @abc.abstractmethod
    def like(self, noise_multiplier: float, ratio: float) -> float:
        """The noise multiplier with which a mean over `ratio` times as many clients has
        the noise that it has here with `noise_multiplier`."""
