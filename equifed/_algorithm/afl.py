"""Agnostic federated learning: the best model for the worst mixture of the clients."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import as_number, checked
from .._client import AbstractWrapper, full_metrics, LocalSGD
from .._client.reach import only, reached
from .._noise import reseed_noise
from .._optim import OptimLike
from .._round import Beginning
from .._server import OptaxServer
from .._tree import safe_divide, tree_where
from .._types import Loss
from .._wire import Broadcast
from ..data import AbstractBatching
from .of_client import _AbstractOfClient


class _SendsLoss(AbstractWrapper):
    r"""Local SGD that weighs $\lambda_k$, and says what its loss was. Its state is
    $\lambda_k$, the loss, and whether it took part."""

    client: LocalSGD

    def __init__(self, client: LocalSGD):
        self.client = client

    def init(self, params):
        return None

    def payload(self, params):
        return self.client.payload(params)

    def round(self, broadcast, data, state, *, key):
        measure_key, key = jr.split(key)
        share, loss, _ = state
        message, _, metrics = self.client.round(broadcast, data, None, key=key)
        size = self.batching.batch_size
        of_all = full_metrics(self.loss, broadcast, data, size, key=measure_key)
        average: Any = of_all["loss"]
        loss = safe_divide(average.total, average.weight).astype(loss.dtype)
        there = message.weight > 0
        weight = jnp.where(there, share.astype(message.weight.dtype), 0)
        message = dataclasses.replace(message, weight=weight)
        return message, (share, loss, there), metrics


class AFLState(eqx.Module):
    """The server optimiser's state, and the clients' weights."""

    server: Any
    weights: Float[Array, " clients"]
    r"""$\lambda$, which sums to 1."""


class AFL(_AbstractOfClient):
    r"""Agnostic federated learning: a game of the model against the weights of the
    clients.

    With $F_k$ the mean loss of client $k$ of $N$ it solves

    $$\min_x \max_{\lambda \in \Lambda} \sum_{k=1}^N \lambda_k F_k(x), \qquad
    \Lambda = \Big\{ \lambda \ge 0 : \sum_k \lambda_k = 1 \Big\},$$

    by steps of both at once. Clients train from the server's $x$, and their changes
    count $\lambda_k$; then the weights take a step of projected gradient ascent, by the
    losses at $x$,

    $$x \leftarrow x + \frac{\sum_{k \in S} \lambda_k (\theta_k - x)}{\sum_{k \in S}
    \lambda_k}, \qquad \lambda \leftarrow \Pi_\Lambda \Big( \lambda + \gamma_\lambda
    \frac{N}{|S|} \sum_{k \in S} F_k(x)\, e_k \Big),$$

    from $\lambda_k = 1 / N$. In the paper a client takes one step, `Steps(1,
    batch_size=...)`, and all take part ($S$ is everybody); where they are drawn alike,
    the step of $\lambda$ is right in the mean. The iterates circle around the
    solution; what the paper bounds is the mean of all of them.

    A projection makes weights of exactly 0, and such a client counts as absent until
    its loss brings it back. [`equifed.AgnosticFedAvg`][] plays the same game over
    domains of examples, with exponentiated gradient in place of the projection.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`: as in [`equifed.FedAvg`][].
    - `weight_learning_rate`: $\gamma_\lambda \ge 0$, in one over the unit of the loss;
        with 0 the weights stay equal.
    - `aggregator`: [`equifed.WeightedMean`][] if not given. One that counts all clients
        alike plays no game.

    ??? cite "Reference"

        [Agnostic Federated Learning](https://arxiv.org/abs/1902.00146), Stochastic-AFL

        ```bibtex
        @inproceedings{mohri2019agnostic,
            title={{A}gnostic {F}ederated {L}earning},
            author={Mohri, Mehryar and Sivek, Gary and Suresh, Ananda Theertha},
            booktitle={ICML},
            year={2019},
        }
        ```
    """

    client: LocalSGD
    server: OptaxServer
    aggregator: AbstractAggregator
    weight_learning_rate: Float[Array, ""]

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        weight_learning_rate: ArrayLike,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching)
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        rate = as_number("weight_learning_rate", weight_learning_rate, least=0)
        self.weight_learning_rate = rate

    def begin(self, params, *, num_clients, key):
        weights = jnp.full(num_clients, 1 / num_clients, jnp.result_type(float))
        inner = self.server.init(params, num_clients=num_clients)
        return Beginning(params, AFLState(inner, weights), self.aggregator.init(params))

    def step(self, state, clients, *, key):
        train_key, noise_key, server_key = jr.split(key, 3)
        sent, at = Broadcast(state.params, state.rest), state.server
        # A client beyond the population has no weight, which is found out.
        shares = at.weights.at[clients.index].get(mode="fill", fill_value=jnp.nan)
        nothing = (jnp.zeros_like(shares), jnp.zeros(shares.shape, bool))
        out = clients(
            _SendsLoss(self.client),
            self.aggregator,
            sent,
            (shares, *nothing),
            state.aggregator,
            key=train_key,
        )
        server, inner = reseed_noise((self.server, at.server), noise_key)
        moved = server.round(state.params, out.aggregate, inner, key=server_key)
        # All who came may have no weight: then the weights alone go on.
        moved = tree_where(out.aggregate.accept, moved, (state.params, at.server))
        # The server does not move what the clients do not train either.
        x = only(reached(self.loss, sent, clients.example), moved[0], state.params)
        _, losses, there = out.clients
        weights = self._climbed(at.weights, clients.index, losses, there)
        state = dataclasses.replace(
            state,
            params=x,
            server=AFLState(moved[1], weights),
            aggregator=out.aggregator,
        )
        return state, out.metrics, out.aggregate.accept | there.any()

    def model(self, state):
        return state.model

    def _climbed(
        self, weights: Array, index: Array, losses: Array, there: Array
    ) -> Array:
        """The weights after a step by the losses of those that were there."""
        share = safe_divide(
            jnp.asarray(weights.size, weights.dtype), there.sum().astype(weights.dtype)
        )
        slope = jnp.where(there, losses, jnp.zeros_like(losses))
        step = self.weight_learning_rate * share * slope
        return onto_simplex(weights.at[index].add(step, mode="drop"))


def onto_simplex(x: Float[Array, " n"]) -> Float[Array, " n"]:
    r"""The nearest point whose numbers are at least 0 and sum to 1: $\max(x - \tau,
    0)$, with the one $\tau$ for which they do (Held, Wolfe and Crowder, 1974)."""
    x = x - jnp.max(x)  # The same point, and a 1 is not lost beside large numbers.
    ordered = jnp.sort(x, descending=True)
    counts = jnp.arange(1, x.size + 1).astype(x.dtype)
    taus = (jnp.cumsum(ordered) - 1) / counts
    last = jnp.sum(ordered > taus) - 1
    return jnp.maximum(x - taus[last], 0)
