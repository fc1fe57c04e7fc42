"""MIFA: the mean of all clients' latest gradients, whoever takes part."""

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked, number
from .._client import AbstractCorrection, LocalSGD
from .._server import AbstractServer
from .._tree import (
    tree_add,
    tree_add_scaled,
    tree_cast_like,
    tree_sub,
    tree_where,
    tree_wide,
    tree_zeros_like,
)
from .._types import Loss, Params
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class _SumOfGradients(AbstractCorrection):
    r"""Sends by how much $G_i = \sum_k g_k$ differs from that of the last time."""

    def init(self, params):
        return tree_zeros_like(params)

    def payload(self, params):
        return params

    def begin(self, params, shared, state, gradient):
        return tree_wide(tree_zeros_like(params)), state

    def correct(self, grads, params, carry, gradient):
        total, last = carry
        return grads, (tree_add(total, grads), last)

    def end(self, delta, num_steps, carry):
        total, last = carry
        total = tree_where(num_steps > 0, tree_cast_like(total, last), last)
        return tree_sub(total, last), total


class _MifaState(eqx.Module):
    """The mean of all clients' sums of gradients, and the size of the population."""

    mean: Params
    num_clients: Float[Array, ""]


class _MifaServer(AbstractServer):
    r"""$\overline G \leftarrow \overline G + \frac{|S|}{N} \overline{\Delta G}$, then
    $x \leftarrow x - \eta \overline G$."""

    learning_rate: Float[Array, ""]

    def init(self, params, *, num_clients):
        number = jnp.asarray(num_clients, jnp.result_type(float))
        return _MifaState(tree_zeros_like(params), number)

    def broadcast(self, params, state):
        return None

    def round(self, params, aggregate, state, *, key):
        share = aggregate.count / state.num_clients
        mean = tree_add_scaled(state.mean, share, aggregate.payload)
        params = tree_add_scaled(params, -self.learning_rate, mean)
        return params, _MifaState(mean, state.num_clients)


class MIFA(AbstractOnePass):
    r"""Memory-augmented impatient federated averaging: absent clients count by what
    they sent last, and no distribution of participation is assumed.

    A participant takes $K$ steps of SGD at rate $\eta$ from the server's $x$, and its
    sum of gradients along the way becomes $G_i$. Over all $N$ clients,

    $$x \leftarrow x - \frac{\eta}{N} \sum_{i=1}^N G_i.$$

    With all clients present this is FedAvg with equal weights. A client that never took
    part counts with $G_i = 0$; in the paper all of them take part in the first round.
    In the paper the server keeps the $G_i$ (or, as here, their mean, and each client
    its own).

    **Arguments:**

    - `loss`, `batching`: as in [`equifed.FedAvg`][].
    - `learning_rate`: $\eta > 0$, of the clients and the server; let it fall by
        [`equifed.OverRounds`][], as in the paper.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [Fast Federated Learning in the Presence of Arbitrary Device
        Unavailability](https://arxiv.org/abs/2106.04159)

        ```bibtex
        @inproceedings{gu2021fast,
            title={{F}ast {F}ederated {L}earning in the {P}resence of {A}rbitrary
                   {D}evice {U}navailability},
            author={Gu, Xinran and Huang, Kaixuan and Zhang, Jingzhao and Huang,
                    Longbo},
            booktitle={NeurIPS},
            year={2021},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: _MifaServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        learning_rate: ArrayLike,
        batching: AbstractBatching,
        *,
        aggregator: AbstractAggregator | None = None,
    ):
        rate = number("learning_rate", least=0, strict=True)(learning_rate)
        self.client = LocalSGD(loss, optax.sgd(rate), batching, _SumOfGradients())
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.server = _MifaServer(rate)
