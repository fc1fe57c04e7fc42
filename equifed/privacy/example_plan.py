"""Privacy of examples: a plan of clients that protect each of their examples.

A plan for clients hides whether a client took part. Here it is one example of a client
that is hidden, from everyone who sees what the client sends.
"""

import dataclasses
import math
from collections.abc import Collection

import equinox as eqx
import jax.numpy as jnp

from .._algorithm import AbstractAlgorithm
from .._bits import DOWN, UP
from .._check import check_count, check_number, checked
from .._round import State
from ..data import AbstractLoader, AbstractSampler, Epochs
from .accounting import (
    Accounted,
    epsilon_of,
    least_noise,
    most_rounds,
    rounded_up,
)
from .covering import NoisedInClients
from .example_level import PrivateSGD
from .extra import dp_accounting
from .leaks import check_release
from .promise import AbstractPlan, names_of


class ExampleLevelPlan(AbstractPlan):
    r"""How private one example of a client is that trains with
    [`equifed.privacy.PrivateSGD`][].

    $(\varepsilon, \delta)$ bounds what everything that the client sends in the training
    tells of one of its examples, against its gradients being 0: the number of examples
    counts as known. An example is in one batch of an epoch, so that $E$ epochs in each
    of at most $T$ rounds are a Gaussian mechanism of noise multiplier $z / \sqrt{E
    T}$. Nothing is gained by the order of the examples being random: batches of an
    epoch are not Poisson samples, and are not accounted for as if they were.

    [`equifed.train`][] with `privacy=plan` refuses a run that the plan does not
    describe: with another client, sampler or population, more rounds, or a server that
    reads anything of the clients but their messages and who takes part. It has
    `epsilon` in the metrics of every round, of the rounds up to it, and keeps from the
    history what the clients measure on their examples, except for what `unprotected`
    names.

    !!! example

        ```python
        plan = eqf.privacy.ExampleLevelPlan(
            sampler, client, num_clients=100, num_rounds=50, delta=1e-5
        ).for_epsilon(8.0)
        algorithm = eqx.tree_at(lambda a: a.client, algorithm, plan.client)
        ```

    Needs the extra `privacy`.
    """

    sampler: AbstractSampler
    client: PrivateSGD
    num_clients: int
    num_rounds: int
    delta: float
    unprotected: tuple[str, ...]

    @checked(
        sampler="Write `ShuffledSampler(20)`, for example.",
        client="Write `PrivateSGD(loss, optim, batching, ...)`, for example.",
    )
    def __init__(
        self,
        sampler: AbstractSampler,
        client: PrivateSGD,
        *,
        num_clients: int,
        num_rounds: int,
        delta: float,
        unprotected: tuple[str, ...] = (),
    ):
        """**Arguments:**

        - `sampler`: the loader's: how often a client takes part at most.
        - `client`: the algorithm's.
        - `num_clients`: the size of the population.
        - `num_rounds`: how many rounds there are at most.
        - `delta`: of epsilon and delta, more than 0 and less than 1.
        - `unprotected`: the names of metrics that are to be in the history though no
            noise covers them, `"loss"` say: for whoever simulates, and not a part of
            what the plan promises.

        **Raises:**

        `ValueError` for a batching that may visit an example twice in an epoch.
        """
        check_number("delta", delta, least=0, strict=True, below=1)
        _check_passes(client)
        self.sampler, self.client = sampler, client
        self.num_clients = check_count("num_clients", num_clients)
        self.num_rounds = check_count("num_rounds", num_rounds)
        self.delta = float(delta)
        self.unprotected = names_of(unprotected)

    def epsilon(self, num_rounds: int | None = None) -> float:
        rounds = self._rounds(num_rounds)
        if rounds == 0:
            return 0.0
        noise = float(self.client.noise_multiplier)
        return epsilon_of(self._account(noise, rounds), self.delta)

    def for_epsilon(self, epsilon: float) -> "ExampleLevelPlan":
        """The plan with the least noise for which all its rounds have at most that
        epsilon."""
        check_number("epsilon", epsilon, least=0, strict=True)
        found = least_noise(
            lambda z: self._account(z, self.num_rounds), epsilon, self.delta
        )
        up = jnp.asarray(rounded_up(found), self.client.noise_multiplier.dtype)
        client = eqx.tree_at(lambda c: c.noise_multiplier, self.client, up)
        return dataclasses.replace(self, client=client)

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

        `ValueError` for a loader of another population, or with another sampler or
        batching, more rounds, another client than the plan's, several passes in a
        round, and an algorithm whose server reads more than the clients' messages.
        """
        loader = self._check_loader(loader, num_rounds)
        _check_passes(self.client)
        if loader.batching != self.client.batching:
            raise ValueError(
                f"The loader's batching is {loader.batching!r}, but that of the plan's "
                f"client is {self.client.batching!r}, so that examples are visited "
                "another number of times. Make the loader with `plan.client.batching`."
            )
        covered = NoisedInClients(self.client)
        return check_release(algorithm, covered, state, loader(0))

    @property
    def reports(self):
        # Who takes part is known, and so is how much a message takes.
        return ("clients", "nonfinite", UP, DOWN)

    def epsilons(self, num_rounds):
        return {"epsilon": self.epsilon(num_rounds)}

    def _account(self, noise_multiplier: float, rounds: int) -> Accounted:
        dp = dp_accounting()
        event = dp.NonPrivateDpEvent()
        if noise_multiplier > 0:
            batching = self.client.batching
            assert isinstance(batching, Epochs)
            times = batching.num_epochs * most_rounds(self.participation, rounds)
            event = dp.GaussianDpEvent(noise_multiplier / math.sqrt(times))
        return Accounted(event, "zero out one", "PLD")


def _check_passes(client: PrivateSGD) -> None:
    """Refuses batches of which it is not known how often an example is in one."""
    if not isinstance(client.batching, Epochs) or client.batching.last == "fill":
        raise ValueError(
            "How often an example is visited is known of passes over all of them, but "
            "batches that are filled up may have one twice. Visit them with "
            "`Epochs(1, batch_size=20)`."
        )
