"""Models to begin a clustering with, that are far apart.

Several models that begin near each other may stay so: one serves all clients, and the
others nobody. Those that clients made of their own data alone are as different as the
clients are.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from .._aggregator import UniformMean
from .._algorithm import AbstractAlgorithm, AbstractClusters
from .._check import checked
from .._client import LocalSGD
from .._evaluate import Evaluator
from .._round import Beginning
from .._tree import tree_add
from .._types import Loss, Model
from .._wire import Broadcast
from ..data import AbstractBatching, cohort, FederatedDataset


class _Alone(AbstractAlgorithm):
    """A round in which one of the clients trains. Which, is a number: one program."""

    loss: Loss
    batching: AbstractBatching
    client: LocalSGD
    chosen: Int[Array, ""]

    def begin(self, params, *, num_clients, key):
        return Beginning(params)

    def step(self, state, clients, *, key):
        one = clients.only(clients.index == self.chosen)
        out = one(
            self.client, UniformMean(), Broadcast(state.params, state.rest), key=key
        )
        new = tree_add(state.params, out.aggregate.payload)
        state = dataclasses.replace(state, params=new)
        return state, out.metrics, out.aggregate.accept

    def model(self, state):
        return state.model


@checked(
    algorithm="Give a `HypCluster` or an `IFCA`.",
    dataset="Build one with `FederatedDataset.from_arrays` or its siblings.",
)
def farthest_first(
    algorithm: AbstractClusters,
    model: Model,
    dataset: FederatedDataset,
    *,
    key: PRNGKeyArray,
) -> list[Model]:
    r"""The models of clients that trained alone, each the one that those before it
    served worst.

    The first is of a client drawn at random. With the models $\theta_1, \dots,
    \theta_j$ the next is of the client with the greatest $\min_{l \le j} F_i(\theta_l)$
    (Gonzalez, 1985; the greedy form of k-means++), which is not chosen twice. Each
    client begins at `model` and visits its examples as the algorithm's batching says.

    It takes as many trainings of one client, and evaluations of the whole data set, as
    there are models.

    **Arguments:**

    - `algorithm`: whose `num_clusters`, loss, client and batching are taken.
    - `model`: where the clients begin.
    - `dataset`: the clients; a few hundred drawn at random do, if there are many.
    - `key`: which client is first, and the clients' own randomness.

    **Returns:**

    `algorithm.num_clusters` models: give them to `algorithm.with_models`.

    **Raises:**

    `ValueError` if there are fewer clients with examples than models, or if one's
    training gives no finite model.

    !!! example

        ```python
        models = eqf.farthest_first(algorithm, model, dataset, key=key)
        state = algorithm.init(model, num_clients=len(dataset), key=key)
        state = algorithm.with_models(state, models)
        ```
    """
    sizes, number = dataset.client_sizes, algorithm.num_clusters
    able = algorithm.batching.num_steps(sizes) > 0
    if able.sum() < number:
        raise ValueError(
            f"`farthest_first` needs {number} clients that take a step, one for each "
            f"model, and the dataset has {able.sum()}. Lower `num_clusters`."
        )
    first_key, key = jr.split(key)
    everyone = cohort(dataset, algorithm.batching)
    measure = Evaluator(dataset, algorithm.loss)
    chosen = int(jr.choice(first_key, jnp.asarray(np.flatnonzero(able))))
    best, models = np.full(len(dataset), np.inf), []
    while True:
        alone = _Alone(
            algorithm.loss,
            algorithm.batching,
            algorithm.client.client,
            jnp.asarray(chosen, jnp.int32),
        )
        state = alone.init(model, num_clients=len(dataset))
        state, metrics = alone.round(state, everyone, key=key)
        if metrics["clients"] != 1 or metrics["nonfinite_model"] > 0:
            name = dataset.client_ids[chosen]
            raise ValueError(
                f"`farthest_first` needs finite models, and client {name!r} made none "
                "of its examples. Lower the client's learning rate."
            )
        models.append(eqx.combine(state.params, state.rest))
        if len(models) == number:
            return models
        able[chosen] = False
        losses = measure.per_client(models[-1], key=key).values["loss"]
        # A loss that is not a number is as bad as can be.
        best = np.minimum(best, np.where(np.isnan(losses), np.inf, losses))
        chosen = int(np.argmax(np.where(able, best, -np.inf)))
