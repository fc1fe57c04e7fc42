"""The epsilon of so many rounds.

What is sampled, and the noise, become an event of the library `dp-accounting`, which
does the mathematics: privacy loss distributions (PLD, arXiv 2207.04380), Renyi
differential privacy (RDP) for sampling without replacement, which has no PLD there, and
the closed form of one Gaussian mechanism. That form, of as many rounds as a client is
likely to be drawn for, is taken where there is so little noise that the library would
overflow.
"""

import dataclasses
import functools
import math
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

# Between values of a privacy loss. An epsilon is an upper bound however coarse these
# are, and this one is within a thousandth, at a tenth of the cost of the default.
_INTERVAL = 1e-3

# The noise multiplier below which a distribution of losses overflows.
_LITTLE = 2e-3


@dataclasses.dataclass(frozen=True)
class Accounted:
    """What there is to account for, and between which neighbours."""

    event: Any
    adjacency: Adjacency
    accountant: Literal["PLD", "RDP", "count", "pure"]
    interval: float = _INTERVAL
    """Between values of a privacy loss, of PLD."""


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
    poisson = isinstance(participation, PoissonParticipation)
    if poisson and 0 < noise_multiplier < _LITTLE:
        # With one client more, one that was drawn may be left out of a full cohort.
        apart = 1 if participation.most is None else 2
        gaussian = dp.GaussianDpEvent(noise_multiplier / apart)
        event = dp.PoissonSampledDpEvent(participation.rate, gaussian)
        event = dp.SelfComposedDpEvent(event, num_rounds)
        return Accounted(event, "add or remove one", "count")
    if isinstance(participation, PoissonParticipation):
        # Little noise has large losses: that of a small simulation takes minutes else.
        wide = max(1.0, 0.1 / noise_multiplier**2) if noise_multiplier > 0 else 1.0
        return Accounted(event, "add or remove one", "PLD", _INTERVAL * wide)
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
            "weights make some clients likelier than others, and those less private, "
            "and who is chosen by anything but a draw is not hidden. Sample with "
            "`PoissonSampler`, `UniformSampler`, `ShuffledSampler` or `AllClients`, or "
            "say it in your sampler's `participation`."
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


@functools.lru_cache(maxsize=4096)  # of all rounds, which several seeds share
def epsilon_of(accounted: Accounted, delta: float) -> float:
    """The epsilon at that delta: an upper bound, infinite where there is none."""
    dp, event = dp_accounting(), accounted.event
    if accounted.accountant == "count":
        return _by_count(event, delta)
    if accounted.accountant == "pure":
        return event.count / event.event.noise_multiplier
    if isinstance(event, dp.GaussianDpEvent) and accounted.accountant == "PLD":
        # A distribution of losses would take a thousand times as long.
        return _of_gaussian(event.noise_multiplier, delta)
    accountant = _accountant(accounted)
    accountant.compose(event)
    found = float(accountant.get_epsilon(delta))
    if found == math.inf and accounted.accountant == "PLD":
        # Of a tiny delta double precision cannot tell, but the moments have a bound.
        other = _accountant(dataclasses.replace(accounted, accountant="RDP"))
        if other.supports(event):
            found = float(other.compose(event).get_epsilon(delta))
    return found


def _of_gaussian(noise_multiplier: float, delta: float) -> float:
    # The library takes the logarithm of 0 where epsilon is nearly 0.
    with np.errstate(divide="ignore"):
        return float(dp_accounting().get_epsilon_gaussian(noise_multiplier, delta))


def _by_count(event: Any, delta: float) -> float:
    r"""An upper bound for Poisson samples that tell who was drawn.

    A client is drawn more than $k$ times with a probability $p$, and $k$ times are one
    Gaussian mechanism: its epsilon at $\delta - p$ is one of all at $\delta$, for each
    $k$ with $p < \delta$. One that is drawn with no more than $\delta$ is hidden.
    """
    from scipy.stats import binom  # it takes long

    rate, rounds = event.event.sampling_probability, event.count
    least, last = (int(binom.isf(p, rounds, rate)) for p in (delta, delta / 2))
    if least == 0:
        return 0.0
    times = np.arange(least, last + 1)
    rest = delta - binom.sf(times, rounds, rate)
    noise = event.event.event.noise_multiplier / np.sqrt(times)
    some = rest > 0
    return min(map(_of_gaussian, noise[some], rest[some]))


def least_noise(
    account: Callable[[float], Accounted], epsilon: float, delta: float
) -> float:
    """The least noise multiplier that has at most that epsilon, to a ten-thousandth.

    **Arguments:**

    - `account`: what there is to account for with a noise multiplier.
    """
    found = functools.cache(lambda multiplier: epsilon_of(account(multiplier), delta))
    low, high = 0.0, 1.0
    while found(high) > epsilon:
        low, high = high, 2 * high
        if high > 2**40:
            raise ValueError(
                f"No noise was found for which `epsilon` is {epsilon:g} at a `delta` "
                f"of {delta:g}. Ask for a larger one of either."
            )
    # An epsilon may take a second, and to halve the interval until it is short fourteen
    # of them. So it is guessed where that would end, and looked whether it does.
    start, turn = (low, high), 0
    while True:
        turn += 1
        guess = (low + high) / 2
        if low > 0 and turn % 5:  # Where guesses are bad, it is halved all the same.
            guess = _crossing(low, high, found(low), found(high), epsilon)
        left, right = _halved(*start, guess)
        if (left, right) == (low, high):
            return high
        middle = left if right == high else right
        if found(middle) > epsilon:
            low = middle
        else:
            high = middle


def _halved(low: float, high: float, root: float) -> tuple[float, float]:
    """Where halving the interval ends, if a root is there."""
    # What hides without noise needs next to none.
    while high - low > 1e-4 * high and high > 2**-40:
        middle = (low + high) / 2
        low, high = (middle, high) if middle < root else (low, middle)
    return low, high


def _crossing(x: float, y: float, at_x: float, at_y: float, level: float) -> float:
    """Where a power of what lies between has a value."""
    if not 0 < at_y < at_x < math.inf:
        return (x + y) / 2
    part = math.log(at_x / level) / math.log(at_x / at_y)
    return x * (y / x) ** part


def rounded_up(multiplier: float) -> float:
    """In single precision, in which it is added, and never less."""
    return float(np.nextafter(np.float32(multiplier), np.float32(np.inf)))


def _accountant(accounted: Accounted) -> Any:
    dp = dp_accounting()
    relation = {
        "add or remove one": dp.NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace one": dp.NeighboringRelation.REPLACE_ONE,
        "zero out one": dp.NeighboringRelation.REPLACE_SPECIAL,
        # One of a pair of outputs for another: the event is of their distance.
        "replace a message": dp.NeighboringRelation.REPLACE_SPECIAL,
    }[accounted.adjacency]
    if accounted.accountant == "RDP":
        return dp.rdp.RdpAccountant(neighboring_relation=relation)
    return dp.pld.PLDAccountant(
        relation, value_discretization_interval=accounted.interval
    )
