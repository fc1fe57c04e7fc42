"""FedALA: each client learns how much of each of the server's numbers to take."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import optax
from jaxtyping import Array, ArrayLike, Float, Int

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import as_number, check_count, checked
from .._client import AbstractWrapper, batch_gradient, LocalSGD
from .._client.part import part_of
from .._cohort import ClientData
from .._loop import fold_range
from .._optim import OptimLike
from .._server import OptaxServer
from .._tree import tree_add, tree_sub, tree_where, tree_wide
from .._types import Loss, Params
from .._wire import Broadcast, CHANGE, Message
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class _Kept(eqx.Module):
    """What a client keeps."""

    params: Params
    """The model that it ended with."""
    weights: Params
    """How much of the server's it takes of each number, `None` where it takes all."""
    rounds: Int[Array, ""]
    """In how many rounds it took part: 0, 1, or 2 for more."""


class _Aggregates(AbstractWrapper):
    """Begins with a mixture of the server's model and its own last one."""

    client: LocalSGD
    adapts: Callable | None
    weight_learning_rate: Float[Array, ""]
    share: Float[Array, ""]
    first_passes: int
    sends = (CHANGE,)

    def __init__(
        self,
        client: LocalSGD,
        adapts: Callable | None,
        weight_learning_rate: Float[Array, ""],
        share: Float[Array, ""],
        first_passes: int,
    ):
        self.client = client
        self.adapts = adapts
        self.weight_learning_rate = weight_learning_rate
        self.share = share
        self.first_passes = first_passes

    def init(self, params):
        part = params
        if self.adapts is not None:
            part = part_of("adapts", self.adapts, params)
        # In float32 at least, or small steps away from 1 would be none.
        ones = tree_wide(jtu.tree_map(jnp.ones_like, part))
        return _Kept(params, ones, jnp.zeros((), jnp.int32))

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        key, weights_key = jr.split(key)
        server, rest = broadcast.params, broadcast.rest
        weights = self._learnt(broadcast, data, state, key=weights_key)
        start = _mixed(weights, state.params, server)
        # One that was never here has no model of its own yet.
        start = tree_where(state.rounds > 0, start, server)
        message, _, metrics = self.client.round(
            Broadcast(start, rest), data, None, key=key
        )
        params = tree_add(start, message.payload)
        rounds = jnp.minimum(state.rounds + 1, 2)
        kept = tree_where(data.num_steps > 0, _Kept(params, weights, rounds), state)
        return Message(tree_sub(params, server), message.weight), kept, metrics

    def _learnt(
        self, broadcast: Broadcast, data: ClientData, state: _Kept, *, key: Array
    ) -> Params:
        """The weights after one pass over a share of the client's examples, or, if it
        has just one model of its own behind it, after several."""
        server = broadcast.params
        apart = tree_sub(server, state.params)
        # The first planned batches: those of one pass are a random part of all.
        size = data.batch_size
        one_pass = (data.num_examples + size - 1) // size
        count = jnp.ceil(self.share * one_pass.astype(self.share.dtype))
        count = jnp.minimum(count.astype(one_pass.dtype), data.num_steps)
        some = data.between(jnp.zeros_like(count), count)

        def learn(number, weights):
            pass_key = jr.fold_in(key, number)

            def step(weights, examples, mask, i):
                at = _mixed(weights, state.params, server)
                batch = (broadcast.rest, examples, mask)
                step_key = jr.fold_in(pass_key, i)
                slope, _ = batch_gradient(self.loss, at, *batch, key=step_key)
                rate = self.weight_learning_rate
                return jtu.tree_map(
                    lambda w, g, d: None if w is None else _stepped(w, rate, g, d),
                    weights,
                    slope,
                    apart,
                    is_leaf=lambda x: x is None,
                )

            return some.fold(step, weights)

        passes = jnp.where(state.rounds == 1, self.first_passes, 1)
        passes = jnp.where(state.rounds == 0, 0, passes)
        bound, differentiable = self.first_passes, data.differentiable
        return fold_range(
            learn, state.weights, passes, bound, differentiable=differentiable
        )


def _stepped(weight: Array, rate: Array, slope: Array, apart: Array) -> Array:
    along = slope.astype(weight.dtype) * apart.astype(weight.dtype)
    return jnp.clip(weight - rate.astype(weight.dtype) * along, 0, 1)


def _mixed(weights: Params, own: Params, server: Params) -> Params:
    """The client's own where the weight is 0, the server's where it is 1, or there is
    none."""
    return jtu.tree_map(
        lambda w, x, y: y if w is None else y + (x - y) * (1 - w).astype(y.dtype),
        weights,
        own,
        server,
        is_leaf=lambda x: x is None,
    )


class FedALA(AbstractOnePass):
    r"""Adaptive local aggregation: each client begins with a mixture of the server's
    model and its own, of which it has learnt how much of each number to take.

    Client $i$ keeps the model $\theta_i$ with which it ended the last time, and weights
    $W_i$ in $[0, 1]$, which are 1 at first. When it is sent $x$, it begins with

    $$\hat\theta_i = \theta_i + (x - \theta_i) \odot W_i,$$

    for which it first takes steps on its weights alone, one for each batch of a part of
    its examples, $W_i \leftarrow W_i - \eta\, (x - \theta_i) \odot \nabla
    F_B(\hat\theta_i)$, each brought back to $[0, 1]$. From $\hat\theta_i$ it runs local
    SGD to its new $\theta_i$, and the server takes the mean of those. A client that
    takes part for the first time begins with $x$; the second time it learns its weights
    in several passes, later in one. The metrics are those of local SGD.

    `algorithm.own_model(state, kept)` is $\theta_i$, the initial model before there is
    one; `state.model` is the server's.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `aggregator`: as in
        [`equifed.FedAvg`][].
    - `adapts`: which arrays have weights, as a function of the model: `lambda m:
        m.layers[-2:]`, the upper layers, in the paper. Of the others all is taken from
        the server. If not given, all have.
    - `weight_learning_rate`: $\eta \ge 0$; 1 in its authors' program. At 0 this is
        FedAvg.
    - `share`: of how many of its examples a client learns the weights, in $(0, 1]$;
        0.8 in that program. They are the first planned batches.
    - `first_passes`: how many passes a client makes over these when it learns its
        weights for the first time, which the paper does until they converge.

    ??? cite "Reference"

        Algorithm 1 of [FedALA: Adaptive Local Aggregation for Personalized Federated
        Learning](https://arxiv.org/abs/2212.01197)

        ```bibtex
        @inproceedings{zhang2023fedala,
            title={{FedALA}: {A}daptive {L}ocal {A}ggregation for {P}ersonalized
                   {F}ederated {L}earning},
            author={Zhang, Jianqing and Hua, Yang and Wang, Hao and Song, Tao and Xue,
                    Zhengui and Ma, Ruhui and Guan, Haibing},
            booktitle={AAAI},
            year={2023},
        }
        ```
    """

    client: _Aggregates
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        adapts: Callable | None = None,
        weight_learning_rate: ArrayLike = 1.0,
        share: ArrayLike = 0.8,
        first_passes: int = 10,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        rate = as_number("weight_learning_rate", weight_learning_rate, least=0)
        self.client = _Aggregates(
            LocalSGD(loss, client_optim, batching),
            adapts,
            rate,
            as_number("share", share, least=0, strict=True, most=1),
            check_count("first_passes", first_passes),
        )
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)

    def own_model(self, state, kept):
        return eqx.combine(kept.params, state.rest)
