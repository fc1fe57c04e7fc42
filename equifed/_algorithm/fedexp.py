"""FedExP."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import UniformMean
from .._check import checked, number
from .._client import AbstractWrapper, LocalSGD
from .._optim import OptimLike
from .._server import AbstractServer
from .._tree import tree_add_scaled, tree_norm
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class _SendsNorm(AbstractWrapper):
    """Local SGD that says how long its change is, in the message's `stats`."""

    client: LocalSGD

    def __init__(self, client: LocalSGD):
        self.client = client

    def init(self, params):
        return None

    def payload(self, params):
        return self.client.payload(params)

    def round(self, broadcast, data, state, *, key):
        message, state, metrics = self.client.round(broadcast, data, state, key=key)
        square = jnp.square(tree_norm(message.payload))
        return dataclasses.replace(message, stats=square), state, metrics


class _Extrapolate(AbstractServer):
    r"""Steps by $\eta_g \overline\Delta$, with $\eta_g$ from the clients' norms."""

    epsilon: Float[Array, ""] = eqx.field(converter=number("epsilon", least=0))

    def init(self, params, *, num_clients):
        return None

    def broadcast(self, params, state):
        return None

    def round(self, params, aggregate, state, *, key):
        square = jnp.square(tree_norm(aggregate.payload))
        rate = aggregate.stats / (2 * (square + self.epsilon))
        return tree_add_scaled(params, jnp.maximum(rate, 1), aggregate.payload), state


class FedExP(AbstractOnePass):
    r"""FedAvg whose server steps further where the clients disagree.

    With the changes $\Delta_i$ of $M$ clients, their mean $\overline\Delta$, and a rate
    that is at least FedAvg's,

    $$x \leftarrow x + \eta_g \overline\Delta, \qquad \eta_g = \max\left(1,
    \frac{\sum_i \lVert \Delta_i \rVert^2}{2 M (\lVert \overline\Delta \rVert^2 +
    \epsilon)}\right).$$

    The iterates oscillate; the paper evaluates the mean of the last two.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].
    - `epsilon`: $\epsilon \ge 0$, which keeps the rate bounded near a minimum.

    There is no choice of an aggregator: all clients count alike, as in the paper.

    ??? cite "Reference"

        [FedExP: Speeding Up Federated Averaging via
        Extrapolation](https://arxiv.org/abs/2301.09604)

        ```bibtex
        @inproceedings{jhunjhunwala2023fedexp,
            title={{FedExP}: {S}peeding {U}p {F}ederated {A}veraging via
                   {E}xtrapolation},
            author={Jhunjhunwala, Divyansh and Wang, Shiqiang and Joshi, Gauri},
            booktitle={ICLR},
            year={2023},
        }
        ```
    """

    client: _SendsNorm
    aggregator: UniformMean
    server: _Extrapolate

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        epsilon: ArrayLike = 1e-3,
    ):
        self.client = _SendsNorm(LocalSGD(loss, client_optim, batching))
        self.aggregator = UniformMean()
        self.server = _Extrapolate(epsilon)
