"""An audit: canaries take part in a training, and are looked for in its model.

A canary is one more client of the population, drawn as any other, that sends a random
direction of a norm far above what is clipped to. Half of them, by the toss of a coin,
are a part of the training; the others are drawn and send nothing. Whoever can tell from
the model which are which bounds the epsilon of what was run from below: a mechanism
that clips too little, or adds less noise than it says, is found out by one training.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from .._algorithm import AbstractAlgorithm
from .._check import as_number, check_count, check_number, check_seed, checked, seed_key
from .._client import AbstractClient
from .._round import State
from .._tree import leaves_by_path, tree_norm
from .._types import Model
from .._words import shown
from ..data import AbstractBatching, AbstractSampler, FederatedDataset, Loader
from .canary import CanaryClient, CanaryState, direction_of
from .estimates import AuditReport, report


class Audit:
    """Canaries for one training.

    !!! example

        ```python
        audit = eqf.privacy.Audit(dataset, num_canaries=200)
        plan = eqf.privacy.PrivacyPlan(
            sampler, mechanism, ..., num_clients=audit.dataset.num_clients
        )
        algorithm = audit.algorithm(
            eqf.FedAvg(loss, optim, batching, aggregator=plan.mechanism)
        )
        loader = audit.loader(plan.sampler, batching)
        solution = eqf.train(algorithm, model, loader, ..., privacy=plan)
        found = audit.report(model, solution.state, delta=plan.delta)
        assert found.lower_bound <= plan.epsilon()
        ```

    Each canary's direction must be all but orthogonal to the others', so that the
    model needs many more params than there are canaries: fewer than 10 for each are
    refused. Needs the extra `privacy`.
    """

    dataset: FederatedDataset
    """The population, with the canaries behind it."""
    included: Bool[np.ndarray, " canaries"]
    """Which of them are a part of the training."""

    @checked(dataset="Build one with `FederatedDataset.from_arrays` or its siblings.")
    def __init__(
        self,
        dataset: FederatedDataset,
        *,
        num_canaries: int,
        norm: ArrayLike = 1000.0,
        seed: int = 0,
    ):
        """**Arguments:**

        - `dataset`: the population.
        - `num_canaries`: how many there are: 2 at least, and some hundreds to find a
            small epsilon.
        - `norm`: of a canary's message. A mechanism clips it; one that does not is
            found out.
        - `seed`: of the directions, and of the coins.
        """
        check_count("num_canaries", num_canaries, least=2)
        self._norm = as_number("norm", norm, least=0, strict=True)
        self._key = seed_key(check_seed(seed))
        self._first = dataset.num_clients
        coins = np.random.Generator(np.random.Philox(seed)).random(num_canaries) < 0.5
        if coins.all() or not coins.any():
            coins[0] = not coins[0]  # there is someone to be told from
        self.included = coins
        # They borrow an example, which nobody learns from.
        lender = int(np.argmax(dataset.client_sizes > 0))
        example = {n: x[:1] for n, x in dataset.client(lender).items()}
        canaries = {f"canary {i}": example for i in range(num_canaries)}
        more = FederatedDataset.from_mapping(canaries)
        self.dataset = FederatedDataset.concatenate([dataset, more])

    @property
    def num_canaries(self) -> int:
        return len(self.included)

    def loader(
        self, sampler: AbstractSampler, batching: AbstractBatching, **options: Any
    ) -> Loader:
        """A loader of the population with the canaries, which says who they are.

        **Arguments:**

        - `sampler`, `batching`, and the rest: as of [`equifed.data.Loader`][].
        """
        if "info" in options:
            raise ValueError(
                "An audit's `info` says which clients are canaries, got another one. "
                "Leave it out, or audit a training without it."
            )
        return Loader(self.dataset, sampler, batching, info=self._info, **options)

    def algorithm(self, algorithm: AbstractAlgorithm) -> AbstractAlgorithm:
        """The algorithm, with clients that are canaries where the loader says so.

        **Arguments:**

        - `algorithm`: one whose `client` is an [`equifed.AbstractClient`][].
        """
        client = getattr(algorithm, "client", None)
        if not isinstance(client, AbstractClient):
            raise TypeError(
                "An audit needs an algorithm with a `client`, such as `FedAvg`, got "
                f"{shown(algorithm)}."
            )
        included = jnp.asarray(self.included)
        canary = CanaryClient(client, self._key, self._norm, included)
        return eqx.tree_at(lambda a: a.client, algorithm, canary)

    def scores(self, before: Model, state: State) -> Float[np.ndarray, " canaries"]:
        """The cosine of each canary's direction with the change of the params.

        **Arguments:**

        - `before`: the model with which the training began.
        - `state`: where it ended: `solution.state`.

        **Raises:**

        `ValueError` if no canary took part in the training, as where its algorithm was
        not that of [`equifed.privacy.Audit.algorithm`][]; and if the training did not
        change the model, or it is not finite.
        """
        change = self._change(before, state)
        self._check_there(state)
        key, norm = self._key, tree_norm(change)
        if not 0 < float(norm) < np.inf:
            raise ValueError(
                "The change of the model is 0 or not finite, so that no canary can be "
                "looked for. See the solution's `result`."
            )

        def score(number: jax.Array) -> jax.Array:
            direction = direction_of(key, number, change)
            return sum(map(jnp.vdot, direction, change), start=jnp.zeros(()))

        # One direction at a time: all of them may not fit.
        each = jax.jit(lambda i: jax.lax.map(score, i))(jnp.arange(self.num_canaries))
        return np.asarray(each / norm)

    def report(
        self,
        before: Model,
        state: State,
        *,
        delta: float,
        confidence: float = 0.95,
    ) -> AuditReport:
        """What the training's last model gives away of the canaries.

        **Arguments:**

        - `before`: the model with which the training began.
        - `state`: where it ended: `solution.state`.
        - `delta`: that of the plan.
        - `confidence`: of the lower bound and the interval.

        **Raises:**

        `ValueError` if no canary took part in the training, as where its algorithm was
        not that of [`equifed.privacy.Audit.algorithm`][]; if the training did not
        change the model, or it is not finite; and if the canaries moved it the other
        way: the algorithm takes away what its clients send, as `MIFA` does, and
        nothing would be found in it.
        """
        check_number("delta", delta, least=0, strict=True, below=1)
        check_number("confidence", confidence, least=0.5, strict=True, below=1)
        scores = self.scores(before, state)
        dimension = sum(x.size for x in self._change(before, state))
        self._check_side(scores, dimension)
        return report(
            scores[self.included],
            scores[~self.included],
            dimension=dimension,
            delta=float(delta),
            confidence=float(confidence),
        )

    def _check_side(
        self, scores: Float[np.ndarray, " canaries"], dimension: int
    ) -> None:
        """Refuses a training in which what clients send counts against itself."""
        sides = scores[self.included], scores[~self.included]
        # Of canaries that are not found each score has about this variance.
        deviation = math.sqrt(sum(1 / len(x) for x in sides) / dimension)
        if sides[0].mean() - sides[1].mean() < -6 * deviation:
            raise ValueError(
                "The model has moved against the canaries that took part, so that no "
                "epsilon can be read from it: this algorithm takes away what its "
                "clients send. Audit one that adds it, such as `FedAvg`."
            )

    def _check_there(self, state: State) -> None:
        """Refuses a training in which there is nothing to be looked for."""
        is_kept = lambda x: isinstance(x, CanaryState)  # noqa: E731
        kept = filter(is_kept, jtu.tree_leaves(state.clients, is_leaf=is_kept))
        found = next(kept, None)
        if found is None or len(found.rounds) != self.dataset.num_clients:
            raise ValueError(
                "This training had no canaries of the audit: its algorithm was not the "
                "audit's, so that nothing can be told from its model. Train with "
                "`audit.algorithm(algorithm)` and `audit.loader(...)`."
            )
        mine = self._first + np.flatnonzero(self.included)
        if not np.asarray(found.rounds[mine]).any():
            raise ValueError(
                f"None of the {len(mine)} canaries that are a part of the training "
                f"took part in any of its {int(state.round)} rounds, so that nothing "
                "can be told from its model. Train for more, or draw more clients."
            )

    def _change(self, before: Model, state: State) -> list[jax.Array]:
        """Of the params that were trained and sent, array by array, as in a message."""
        old, new = leaves_by_path(before), leaves_by_path(state.params)
        if not all(n in old and old[n].shape == x.shape for n, x in new.items()):
            raise ValueError(
                "`before` must be the model with which the training began, got "
                f"{shown(before)}, which has other arrays."
            )
        wide = jnp.result_type(float)
        return [x.astype(wide) - old[n].astype(wide) for n, x in new.items()]

    def _info(
        self, round: int, clients: Int[np.ndarray, " clients"]
    ) -> Int[np.ndarray, " clients"]:
        return np.where(clients >= self._first, clients - self._first, -1)
