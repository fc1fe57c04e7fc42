"""TERM: clients with a high loss count more, exponentially."""

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, WeightedMean
from .._bits import add_bits
from .._check import as_number, checked
from .._client import AbstractWrapper, LocalSGD
from .._client.reach import only, reached
from .._noise import reseed_noise
from .._optim import OptimLike
from .._round import Beginning
from .._server import OptaxServer
from .._types import Loss
from .._wire import Broadcast
from ..data import AbstractBatching
from .measured import measured_losses
from .of_client import _AbstractOfClient


class _Weighted(AbstractWrapper):
    """Local SGD whose weight is times a number of the client's own: its state."""

    client: LocalSGD

    def __init__(self, client: LocalSGD):
        self.client = client

    def init(self, params):
        return None

    def payload(self, params):
        return self.client.payload(params)

    def round(self, broadcast, data, state, *, key):
        message, _, metrics = self.client.round(broadcast, data, None, key=key)
        weight = message.weight * state.astype(message.weight.dtype)
        return dataclasses.replace(message, weight=weight), state, metrics


class TERM(_AbstractOfClient):
    r"""Tilted empirical risk minimisation over clients: FedAvg whose weights grow, or
    fall, exponentially with the client's loss.

    With $F_k$ the mean loss of client $k$ over its $n_k$ examples it minimises

    $$\frac1t \log \Big( \frac1N \sum_k n_k e^{t F_k(x)} \Big),$$

    which goes from the mean ($t \to 0$) to the highest loss ($t \to \infty$), and for
    $t < 0$ down to the lowest: clients that are far off, or corrupted, count less. Its
    gradient is the mean of the clients' gradients with the weights $w_k \propto n_k
    e^{t F_k}$, which are taken over the participants, at the server's $x$:

    $$x \leftarrow x + \sum_k \frac{w_k}{\sum_j w_j} (\theta_k - x).$$

    A round makes two passes: one measures the losses, one trains. Weights are made of
    $t F_k - \max_j t F_j$, so that no exponential overflows; a client whose weight is
    too small for a number counts as absent, and so does one whose loss is not finite.
    In the paper's terms this is tilting of groups, which are the clients, with $\tau =
    0$ within them; the paper's solver estimates the sum from batches.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`: as in [`equifed.FedAvg`][].
    - `t`: any number, in one over the unit of the loss.
    - `aggregator`: [`equifed.WeightedMean`][] if not given. One that counts all clients
        alike undoes the tilting.

    ??? cite "Reference"

        [Tilted Empirical Risk Minimization](https://arxiv.org/abs/2007.01162)

        ```bibtex
        @inproceedings{li2021tilted,
            title={{T}ilted {E}mpirical {R}isk {M}inimization},
            author={Li, Tian and Beirami, Ahmad and Sanjabi, Maziar and Smith,
                    Virginia},
            booktitle={ICLR},
            year={2021},
        }
        ```
    """

    client: LocalSGD
    server: OptaxServer
    aggregator: AbstractAggregator
    t: Float[Array, ""]

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        t: ArrayLike,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching)
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        self.t = as_number("t", t)

    def begin(self, params, *, num_clients, key):
        server = self.server.init(params, num_clients=num_clients)
        return Beginning(params, server, self.aggregator.init(params))

    def step(self, state, clients, *, key):
        measure_key, train_key, noise_key, server_key = jr.split(key, 4)
        sent = Broadcast(state.params, state.rest)
        measured = measured_losses(
            clients, self.loss, self.batching, sent, key=measure_key
        )
        out = clients(
            _Weighted(self.client),
            self.aggregator,
            sent,
            tilted(measured.clients, self.t),
            state.aggregator,
            key=train_key,
        )
        server, at = reseed_noise((self.server, state.server), noise_key)
        x, at = server.round(state.params, out.aggregate, at, key=server_key)
        # The server does not move what the clients do not train either.
        x = only(reached(self.loss, sent, clients.example), x, state.params)
        state = dataclasses.replace(
            state, params=x, server=at, aggregator=out.aggregator
        )
        metrics = add_bits(out.metrics, measured.metrics)
        return state, metrics, out.aggregate.accept

    def model(self, state):
        return state.model


def tilted(
    losses: Float[Array, "devices slots"], t: Float[Array, ""]
) -> Float[Array, "devices slots"]:
    """`exp(t F)` up to a factor that makes the greatest of them 1; 0 where the loss is
    not finite."""
    there = jnp.isfinite(losses)
    t = t.astype(losses.dtype)
    greatest = jnp.max(jnp.where(there, losses, -jnp.inf))
    least = jnp.min(jnp.where(there, losses, jnp.inf))
    # Before it is multiplied: two large products that are alike differ by a rounding.
    # Where nobody is there is no greatest.
    beyond = jnp.where(there, losses - jnp.where(t > 0, greatest, least), 0)
    return jnp.where(there, jnp.exp(t * beyond), 0)
