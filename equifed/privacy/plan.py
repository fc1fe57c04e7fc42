"""What was run, and how private that is."""

import dataclasses
from collections.abc import Collection
from typing import Literal

import jax
import jax.core
import numpy as np

from .._algorithm import AbstractAlgorithm
from .._check import check_choice, check_count, check_number, checked
from .._round import State
from ..data import AbstractLoader, AbstractSampler, PoissonParticipation
from ..data._sampler import Participation
from .accounting import Accounted, epsilon_of, least_noise, rounded_up
from .covering import NoisedSum
from .deployment import Deployment
from .leaks import check_release
from .mechanism import AbstractMechanism
from .promise import AbstractPlan, names_of


class PrivacyPlan(AbstractPlan):
    r"""Who takes part, and what noise is added: from which the privacy follows.

    A plan is for client-level privacy: $(\varepsilon, \delta)$ bounds what anyone who
    sees the model after every round can tell of whether a client took part in the
    training at all, with all its examples; between which neighbours exactly,
    `plan.adjacency` says. It is held against the loader and the algorithm that are
    really run: [`equifed.train`][] with `privacy=plan` refuses what the plan does not
    describe, has `epsilon` in the metrics of every round, of the rounds up to it, and
    keeps from the history what no noise covers, except for what `unprotected` names.

    !!! example

        ```python
        mechanism = eqf.privacy.PrivateMean(
            eqf.privacy.FlatClip(0.5), noise_multiplier=1.0, expected_clients=20
        )
        sampler = eqf.data.PoissonSampler(20 / dataset.num_clients)
        plan = eqf.privacy.PrivacyPlan(
            sampler,
            mechanism,
            num_clients=dataset.num_clients,
            num_rounds=200,
            delta=1e-5,
        ).for_epsilon(8.0)
        algorithm = eqf.FedAvg(loss, optim, batching, aggregator=plan.mechanism)
        ```

    Needs the extra `privacy`.
    """

    sampler: AbstractSampler
    mechanism: AbstractMechanism
    num_clients: int
    num_rounds: int
    delta: float
    unprotected: tuple[str, ...]
    deployment: Deployment | None

    @checked(
        sampler="Write `PoissonSampler(0.01)`, for example.",
        mechanism="Write `PrivateMean(FlatClip(1.0), ...)`, for example.",
    )
    def __init__(
        self,
        sampler: AbstractSampler,
        mechanism: AbstractMechanism,
        *,
        num_clients: int,
        num_rounds: int,
        delta: float,
        unprotected: tuple[str, ...] = (),
        deployment: Deployment | None = None,
    ):
        """**Arguments:**

        - `sampler`: the loader's.
        - `mechanism`: the algorithm's aggregator.
        - `num_clients`: the size of the population, which counts as known to all.
        - `num_rounds`: the most rounds that will be run.
        - `delta`: of epsilon and delta, more than 0 and less than 1; usually well below
            1 / `num_clients`.
        - `unprotected`: the names of metrics that are to be in the history though no
            noise covers them, `"loss"` or `"clients"` say: for whoever simulates, and
            not a part of what the plan promises.
        - `deployment`: the larger population that is simulated, if one is.

        **Raises:**

        `ValueError` for a sampler of which nothing is known, for a mechanism that
        expects another number of clients, and for what no bound is known of.
        """
        check_number("delta", delta, least=0, strict=True, below=1)
        self.sampler, self.mechanism = sampler, mechanism
        self.num_clients = check_count("num_clients", num_clients)
        most = mechanism.most_rounds
        self.num_rounds = check_count("num_rounds", num_rounds, most=most)
        self.delta = float(delta)
        self.unprotected, self.deployment = names_of(unprotected), deployment
        self._check_fits()

    @property
    def adjacency(self) -> str:
        """Which two populations are neighbours: `"add or remove one"` client, `"replace
        one"` by another, `"zero out one"`: a client sends 0 instead of its message; or
        `"replace a message"`: any other message, which was noised before it left, and
        whoever sees it."""
        return self._account(self.participation, 1.0, 1).adjacency

    @property
    def noise_multiplier(self) -> float:
        """The mechanism's, in double precision."""
        given = self.mechanism.noise_multiplier
        if isinstance(given, jax.core.Tracer):
            raise ValueError(
                "A plan accounts for a noise multiplier that is known, got one that is "
                "traced. Make a plan for each outside of `vmap` and `jit`."
            )
        return float(given)

    def epsilon(self, num_rounds: int | None = None) -> float:
        there = self.participation
        return self._epsilon(there, self.noise_multiplier, self._rounds(num_rounds))

    def deployed_epsilon(self, num_rounds: int | None = None) -> float:
        """The epsilon that the same rounds would have with the population and the
        cohorts of `deployment`, and the noise that their mean has here."""
        there, ratio = self._deployed()
        noise = self.mechanism.like(self.noise_multiplier, ratio)
        return self._epsilon(there, noise, self._rounds(num_rounds))

    def for_epsilon(
        self, epsilon: float, *, of: Literal["run", "deployment"] = "run"
    ) -> "PrivacyPlan":
        """The plan with the least noise for which all its rounds have at most that
        epsilon.

        **Arguments:**

        - `epsilon`: the epsilon, more than 0.
        - `of`: whether it is that of what is run, or that of the deployment.
        """
        check_number("epsilon", epsilon, least=0, strict=True)
        check_choice("of", of, ("run", "deployment"))
        there, ratio = self.participation, 1.0
        if of == "deployment":
            there, ratio = self._deployed()
        found = least_noise(
            lambda z: self._account(there, z, self.num_rounds), epsilon, self.delta
        )
        up = rounded_up(self.mechanism.like(found, 1 / ratio))
        mechanism = dataclasses.replace(self.mechanism, noise_multiplier=up)
        return dataclasses.replace(self, mechanism=mechanism)

    def check(
        self,
        algorithm: AbstractAlgorithm,
        state: State,
        loader: AbstractLoader,
        *,
        num_rounds: int,
    ) -> Collection[str]:
        """Refuses a run that is not the one of the plan.

        **Arguments:**

        - `state`: where it begins.
        - `num_rounds`: how many rounds there are to be, from the first.

        **Returns:**

        The names of the metrics of its rounds.

        **Raises:**

        `ValueError` for a loader of another population or with another sampler, more
        rounds, another aggregator than the plan's mechanism, several passes in a round,
        and an algorithm whose server reads what no noise covers.
        """
        loader = self._check_loader(loader, num_rounds)
        if loader.clock is not None and self.mechanism.needs_all:
            raise ValueError(
                f"With `{type(self.mechanism).__name__}` each client adds its share of "
                "the noise, and the loader's clock may leave out some who were drawn, "
                "late or lost. Give the loader no clock, or take `PrivateMean`."
            )
        self._check_fits()
        return check_release(algorithm, NoisedSum(self.mechanism), state, loader(0))

    @property
    def reports(self):
        return self.mechanism.reports

    def epsilons(self, num_rounds):
        found = {"epsilon": self.epsilon(num_rounds)}
        if self.deployment is not None:
            found["deployed_epsilon"] = self.deployed_epsilon(num_rounds)
        return found

    def _account(self, there: Participation, noise: float, rounds: int) -> Accounted:
        return self.mechanism.account(there, noise, rounds)

    def _epsilon(self, there: Participation, noise: float, rounds: int) -> float:
        if rounds == 0:
            return 0.0
        return epsilon_of(self._account(there, noise, rounds), self.delta)

    def _deployed(self) -> tuple[Participation, float]:
        """How clients of the deployment take part, and how many times as many of them
        a round has."""
        if self.deployment is None:
            raise ValueError(
                "This plan has no deployment. Give it one: "
                "`deployment=Deployment(num_clients=1_000_000, cohort_size=5_000)`."
            )
        expected = float(self.mechanism.expected_clients)
        ratio = self.deployment.cohort_size / expected
        return self.deployment.like(self.participation), ratio

    def _check_fits(self) -> None:
        """Refuses a mechanism for others than those who come. `eqx.tree_at` may have
        changed either since the plan was made."""
        self.mechanism.check(self.participation)
        if self.deployment is not None:
            self.deployment.like(self.participation)
        wanted, got = self.participation.expected, self.mechanism.expected_clients
        if isinstance(got, jax.core.Tracer) or np.isclose(
            float(got), wanted, rtol=1e-5
        ):
            return
        there = self.participation
        cut = isinstance(there, PoissonParticipation) and there.most is not None
        raise ValueError(
            f"`expected_clients` of the mechanism is {float(got):g}, but by "
            f"`{type(self.sampler).__name__}` {wanted:g} of the {self.num_clients} "
            f"clients are drawn on average{', before any are left out' * cut}. Give "
            f"`expected_clients={wanted:g}`."
        )
