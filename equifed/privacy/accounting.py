"""The epsilon of so many rounds.

What is sampled, and the noise, become an event of the library `dp-accounting`, which
does the mathematics: privacy loss distributions (PLD, arXiv 2207.04380), and Renyi
differential privacy (RDP) for sampling without replacement, which has no PLD there.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ..data import (
    FixedSizeParticipation,
    OrderedParticipation,
    PoissonParticipation,
)
from ..data._sampler import Participation
from .extra import dp_accounting
from .noise import AbstractNoise


Adjacency = Literal[
    "add or remove one", "replace one", "zero out one", "replace a message"
]

# Of the values of a privacy loss. An epsilon is an upper bound however coarse these
# are, and this one is within a thousandth, at a tenth of the cost of the default.
_INTERVAL = 1e-3


@dataclasses.dataclass(frozen=True)
class Accounted:
    """What there is to account for, and between which neighbours."""

    event: Any
    adjacency: Adjacency
    accountant: Literal["PLD", "RDP"]


def account(
    participation: Participation,
    noise: AbstractNoise,
    noise_multiplier: float,
    num_rounds: int,
) -> Accounted:
    """The event of the first `num_rounds` rounds.

    **Arguments:**

    - `noise_multiplier`: the standard deviation of a round's fresh noise over the bound
        on the norm of one client's message.
    """
    dp = dp_accounting()
    # Without noise there is no bound, which not every formula would say.
    event = dp.NonPrivateDpEvent()
    if isinstance(participation, OrderedParticipation):
        if noise_multiplier > 0:
            # The whole training is one Gaussian mechanism: of the strategy's product.
            sensitivity = noise.sensitivity(participation, num_rounds)
            event = dp.GaussianDpEvent(noise_multiplier / sensitivity)
        return Accounted(event, "zero out one", "PLD")
    if noise_multiplier > 0:
        event = _of_a_round(dp, participation, noise_multiplier)
        event = dp.SelfComposedDpEvent(event, num_rounds)
    if isinstance(participation, PoissonParticipation):
        return Accounted(event, "add or remove one", "PLD")
    return Accounted(event, "replace one", "RDP")


def _of_a_round(
    dp: Any,
    participation: PoissonParticipation | FixedSizeParticipation,
    noise_multiplier: float,
) -> Any:
    """One Gaussian mechanism of a random sample."""
    population, gaussian = participation.num_clients, dp.GaussianDpEvent
    if isinstance(participation, FixedSizeParticipation):
        # A client in place of another changes the sum by two messages.
        return dp.SampledWithoutReplacementDpEvent(
            population, participation.cohort_size, gaussian(noise_multiplier / 2)
        )
    rate, most = participation.rate, participation.most
    if most is None:
        return dp.PoissonSampledDpEvent(rate, gaussian(noise_multiplier))
    return dp.TruncatedSubsampledGaussianDpEvent(
        population, rate, most, noise_multiplier
    )


def most_rounds(participation: Participation, num_rounds: int) -> int:
    """In how many of so many rounds one client takes part at most. A random draw bounds
    nothing."""
    if isinstance(participation, OrderedParticipation):
        return participation.most_rounds(num_rounds)
    return num_rounds


def check_known(sampler: Any, participation: Participation | None) -> Participation:
    """Refuses a sampler of which nothing is known."""
    if participation is None:
        raise ValueError(
            f"Nothing is known of how `{type(sampler).__name__}` hides who takes part: "
            "weights make some clients likelier than others, and those less private. "
            "Sample with `PoissonSampler`, `UniformSampler`, `ShuffledSampler` or "
            "`AllClients`, or say it in your sampler's `participation`."
        )
    return participation


def check_accountable(participation: Participation, noise: AbstractNoise) -> None:
    """Refuses what nothing is known of, and what would be accounted for as if the
    sampling did nothing."""
    if not (isinstance(participation, OrderedParticipation) or noise.is_independent):
        how = (
            "Poisson sampling"
            if isinstance(participation, PoissonParticipation)
            else "sampling of a fixed size"
        )
        raise ValueError(
            f"Of {how} with `{type(noise).__name__}` no bound is known that gains by "
            "the sampling: a client may take part in any rounds. Sample with "
            "`ShuffledSampler(n, reshuffle=False)`, or take `IndependentNoise()`."
        )


def epsilon_of(accounted: Accounted, delta: float) -> float:
    """The epsilon at that delta: an upper bound, infinite where there is none."""
    accountant = _accountant(accounted.adjacency, accounted.accountant)
    accountant.compose(accounted.event)
    return float(accountant.get_epsilon(delta))


def least_noise(
    account: Callable[[float], Accounted], epsilon: float, delta: float
) -> float:
    """The least noise multiplier that has at most that epsilon.

    **Arguments:**

    - `account`: what there is to account for with a noise multiplier.
    """
    like = account(1.0)
    return dp_accounting().calibrate_dp_mechanism(
        lambda: _accountant(like.adjacency, like.accountant),
        lambda multiplier: account(multiplier).event,
        float(epsilon),
        delta,
        dp_accounting().LowerEndpointAndGuess(0.0, 1.0),
        tol=1e-4,
    )


def rounded_up(multiplier: float) -> float:
    """In single precision, in which it is added, and never less."""
    return float(np.nextafter(np.float32(multiplier), np.float32(np.inf)))


def _accountant(adjacency: Adjacency, kind: Literal["PLD", "RDP"]) -> Any:
    dp = dp_accounting()
    relation = {
        "add or remove one": dp.NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace one": dp.NeighboringRelation.REPLACE_ONE,
        "zero out one": dp.NeighboringRelation.REPLACE_SPECIAL,
        # One of a pair of outputs for another: the event is of their distance.
        "replace a message": dp.NeighboringRelation.REPLACE_SPECIAL,
    }[adjacency]
    if kind == "RDP":
        return dp.rdp.RdpAccountant(neighboring_relation=relation)
    return dp.pld.PLDAccountant(relation, value_discretization_interval=_INTERVAL)
