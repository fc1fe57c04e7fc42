"""MOON: representations near those of the server's model, and away from the client's
last one."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import as_number, checked
from .._client import AbstractClient, AbstractCriterion, LocalSGD
from .._client.outputs import masked_mean, Outputs, outputs_of
from .._optim import OptimLike
from .._server import OptaxServer
from .._tree import safe_divide, tree_add, tree_where, wide_dtype
from .._types import Loss
from .._wire import CHANGE
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class _ModelContrast(AbstractCriterion):
    r"""The mean loss and $\mu$ times the model-contrastive loss. What is shared with it
    is the client's last model."""

    representation: Outputs
    mu: Float[Array, ""]
    temperature: Float[Array, ""]

    def begin(self, broadcast, data):
        return broadcast.params, broadcast.shared, broadcast.rest

    def value(self, loss, model, examples, mask, given, *, keys):
        server, last, rest = given
        models = (model, eqx.combine(server, rest), eqx.combine(last, rest))
        mine, near, far = (
            outputs_of("representation", self.representation, x, examples, keys)
            for x in models
        )
        nearer = _cosine(mine, near) - _cosine(mine, far)
        scaled = nearer / self.temperature.astype(nearer.dtype)
        # Minus the logarithm of the one's share in both exponentials.
        contrast = masked_mean(jax.nn.softplus(-scaled), mask).astype(loss.dtype)
        return loss + self.mu.astype(loss.dtype) * contrast


def _cosine(x: Array, y: Array) -> Float[Array, " batch"]:
    """Of each pair of vectors; 0, as is its gradient, if one of them is 0."""
    x, y = (z.astype(wide_dtype(z.dtype)) for z in (x, y))
    lengths = _length(x) * _length(y)
    return safe_divide(jnp.sum(x * y, -1), lengths)


def _length(x: Array) -> Float[Array, " batch"]:
    squares = jnp.sum(x**2, -1)
    # The gradient of a square root at 0 is infinite.
    zero = squares == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


class _KeepsLast(AbstractClient):
    """Keeps the model that it ended with, and trains in its sight the next time."""

    local: LocalSGD
    sends = (CHANGE,)
    follows_loss = True

    def __init__(self, local: LocalSGD):
        self.local = local

    @property
    def loss(self) -> Loss:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.local.loss

    @property
    def batching(self) -> AbstractBatching:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.local.batching

    def init(self, params):
        return params

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        with_last = dataclasses.replace(broadcast, shared=state)
        message, _, metrics = self.local.round(with_last, data, None, key=key)
        last = tree_add(broadcast.params, message.payload)
        return message, tree_where(data.num_steps > 0, last, state), metrics


class MOON(AbstractOnePass):
    r"""Model-contrastive federated learning: FedAvg whose clients keep their
    representations near those of the server's model.

    Client $i$ keeps the model with which it ended the last time, $\theta_i'$, which is
    the initial one at first. From the server's $x$ each local step descends the mean
    over its batch of

    $$\ell(\theta, e) - \mu \log \frac{\exp(\cos(z, z_x) / \tau)}{\exp(\cos(z, z_x) /
    \tau) + \exp(\cos(z, z_{\theta_i'}) / \tau)},$$

    where $z$, $z_x$ and $z_{\theta_i'}$ are the representations of the example $e$ by
    the three models. A representation of length 0 has a cosine of 0 with any other. A
    client that was away for some rounds has an old $\theta_i'$, as in the paper. The
    metrics are those of the loss alone. It is the server's model that is used.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `aggregator`: as in
        [`equifed.FedAvg`][].
    - `representation`: `representation(model, example, key)`, a vector: that of a
        projection head, in the paper. All three models are given the same key: the
        same dropout.
    - `mu`: $\mu \ge 0$. At 0 this is FedAvg.
    - `temperature`: $\tau > 0$; 0.5 in the paper.

    ??? cite "Reference"

        Algorithm 1 of [Model-Contrastive Federated
        Learning](https://arxiv.org/abs/2103.16257)

        ```bibtex
        @inproceedings{li2021model,
            title={{M}odel-{C}ontrastive {F}ederated {L}earning},
            author={Li, Qinbin and He, Bingsheng and Song, Dawn},
            booktitle={CVPR},
            year={2021},
        }
        ```
    """

    client: _KeepsLast
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        representation: Callable,
        mu: ArrayLike,
        temperature: ArrayLike = 0.5,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        criterion = _ModelContrast(
            representation,
            as_number("mu", mu, least=0),
            as_number("temperature", temperature, least=0, strict=True),
        )
        local = LocalSGD(loss, client_optim, batching, criterion=criterion)
        self.client = _KeepsLast(local)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)
