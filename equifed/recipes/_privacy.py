"""What a recipe promises to its clients, in plain numbers."""

import dataclasses

import equinox as eqx

from .._algorithm import AbstractAlgorithm, AbstractOnePass, OverRounds
from .._check import check_count, check_number
from ..data import PoissonSampler
from ..privacy import Deployment, FlatClip, PrivacyPlan, PrivateMean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Privacy:
    """Clipped messages and independent noise, with clients drawn as Poisson samples.

    A simulation that is smaller than what it stands for has the noise which that would
    have in a mean: `epsilon` is then that of the deployment, and what is run has a much
    larger one, told beside it.

    **Arguments:**

    - `epsilon`, `delta`: what is promised.
    - `clip_norm`: the norm that each message is scaled down to.
    - `population`, `noise_cohort_size`: how many clients there would be, and how many
        of them in a round; both or neither. What is run is what is meant if neither.
    """

    epsilon: float
    delta: float
    clip_norm: float
    population: int | None = None
    noise_cohort_size: int | None = None

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, least=0, strict=True)
        check_number("delta", self.delta, least=0, strict=True, below=1)
        check_number("clip_norm", self.clip_norm, least=0, strict=True)
        if (self.population is None) != (self.noise_cohort_size is None):
            raise ValueError(
                "`population` and `noise_cohort_size` are of one deployment, got "
                f"population={self.population} and noise_cohort_size="
                f"{self.noise_cohort_size}. Give both or neither."
            )
        if self.population is not None:
            population = check_count("population", self.population)
            most = {"most": population}
            check_count("noise_cohort_size", self.noise_cohort_size, **most)

    @property
    def deployment(self) -> Deployment | None:
        """What the simulation stands for."""
        if self.population is None or self.noise_cohort_size is None:
            return None
        return Deployment(self.population, self.noise_cohort_size)

    def sampler(
        self, *, num_clients: int, clients_per_round: int, seed: int
    ) -> PoissonSampler:
        """Who takes part in which round.

        **Arguments:**

        - `num_clients`: how many clients train.
        - `clients_per_round`: how many of them are in a round, on average.
        - `seed`: that of who is drawn.
        """
        most = {"most": check_count("num_clients", num_clients)}
        expected = check_count("clients_per_round", clients_per_round, **most)
        return PoissonSampler(expected / num_clients, seed=seed)

    def plan(
        self, *, num_clients: int, clients_per_round: int, rounds: int, seed: int
    ) -> PrivacyPlan:
        """The plan with the least noise.

        **Arguments:**

        - `num_clients`, `clients_per_round`, `seed`: as for `sampler`.
        - `rounds`: the number of rounds.
        """
        drawn = {"num_clients": num_clients, "clients_per_round": clients_per_round}
        plan = PrivacyPlan(
            self.sampler(**drawn, seed=seed),
            PrivateMean(
                FlatClip(self.clip_norm),
                noise_multiplier=1.0,
                expected_clients=clients_per_round,
            ),
            num_clients=num_clients,
            num_rounds=rounds,
            delta=self.delta,
            deployment=self.deployment,
        )
        of = "run" if self.deployment is None else "deployment"
        return plan.for_epsilon(self.epsilon, of=of)


def with_plan(algorithm: AbstractAlgorithm, plan: PrivacyPlan) -> AbstractAlgorithm:
    """The algorithm with the plan's mechanism for its aggregator. Its rates may change
    from round to round: what is done with a noised sum costs no privacy, and what a
    client sends is clipped, whatever its rate."""
    if isinstance(algorithm, OverRounds):
        make = algorithm.make
        return OverRounds(lambda round: with_plan(make(round), plan))
    if not isinstance(algorithm, AbstractOnePass):
        raise ValueError(
            f"`{type(algorithm).__name__}` is not of one pass with one aggregator, "
            "whose place a plan's mechanism could take. Take `FedAvg`."
        )
    return eqx.tree_at(lambda a: a.aggregator, algorithm, plan.mechanism)
