"""Mime and MimeLite: two passes a round."""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import as_number, checked
from .._client import (
    AbstractClient,
    batch_gradient,
    full_gradient,
    merge_metrics,
    zero_metrics,
)
from .._client.reach import only, reached
from .._noise import reseed_noise
from .._optim import as_optim, Optim, OptimLike
from .._round import Beginning
from .._tree import tree_add, tree_add_scaled, tree_cast_like, tree_sub
from .._types import Loss
from .._wire import Broadcast, Message
from ..data import AbstractBatching
from .base import AbstractAlgorithm
from .two_passes import of_both


class _Full(AbstractClient):
    """Sends the gradient over all the client's examples at the server's model."""

    loss: Loss
    batching: AbstractBatching

    def init(self, params):
        return None

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        size = self.batching.batch_size
        grads, metrics = full_gradient(self.loss, broadcast, data, size, key=key)
        return Message(grads, data.weight), state, metrics


class _Local(AbstractClient):
    """Steps of the server's optimiser, whose state stays as it is."""

    loss: Loss
    batching: AbstractBatching
    optim: Optim
    corrects: bool

    def init(self, params):
        return None

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        start, rest = broadcast.params, broadcast.rest
        mean, frozen = broadcast.shared
        where = reached(self.loss, broadcast, data.example)
        step_key, noise_key = jr.split(key)

        def step(carry, examples, mask, i):
            params, metrics = carry
            batch, key = (rest, examples, mask), jr.fold_in(step_key, i)
            grads, new = batch_gradient(self.loss, params, *batch, key=key)
            if self.corrects:
                # The same batch and the same keys, where the first pass was.
                key = jr.clone(key)
                there, _ = batch_gradient(self.loss, start, *batch, key=key)
                grads = tree_add(tree_sub(grads, there), mean)
            optim, held = reseed_noise((self.optim, frozen), jr.fold_in(noise_key, i))
            updates, _ = optim.update(grads, held, params)
            params = only(where, tree_add(params, updates), params)
            return params, merge_metrics(metrics, new)

        carry = (start, zero_metrics(self.loss, broadcast.model, data.example))
        params, metrics = data.fold(step, carry)
        return Message(tree_sub(params, start), data.weight), state, metrics


class _AbstractMime(AbstractAlgorithm):
    """What the two have in common: all but the clients' correction."""

    optim: eqx.AbstractVar[Optim]
    aggregator: eqx.AbstractVar[AbstractAggregator]
    gradient_aggregator: eqx.AbstractVar[AbstractAggregator]
    server_learning_rate: eqx.AbstractVar[Float[Array, ""]]
    corrects: eqx.AbstractClassVar[bool]

    def begin(self, params, *, num_clients, key):
        each = (self.gradient_aggregator.init(params), self.aggregator.init(params))
        return Beginning(params, self.optim.init(params), each)

    def step(self, state, clients, *, key):
        full_key, local_key, noise_key = jr.split(key, 3)
        x, s = state.params, state.server
        at_full, at_local = state.aggregator
        client = _Full(self.loss, self.batching)
        sent = Broadcast(x, state.rest)
        mean_of = self.gradient_aggregator
        full = clients(client, mean_of, sent, aggregator_state=at_full, key=full_key)
        mean = tree_cast_like(full.aggregate.payload, x)

        client = _Local(self.loss, self.batching, self.optim, self.corrects)
        sent = Broadcast(x, state.rest, (mean, s))
        local = clients(
            client, self.aggregator, sent, aggregator_state=at_local, key=local_key
        )
        optim, folded = reseed_noise((self.optim, s), noise_key)
        _, s = optim.update(mean, folded, x)
        state = dataclasses.replace(
            state,
            params=tree_add_scaled(
                x, self.server_learning_rate, local.aggregate.payload
            ),
            server=s,
            aggregator=(full.aggregator, local.aggregator),
        )
        return state, *of_both(full, local)

    def model(self, state):
        return state.model


class Mime(_AbstractMime):
    r"""Clients that mimic the steps of a centralised optimiser.

    A round makes two passes. In the first the clients send the gradients of all their
    examples at the server's $x$, whose mean is $c$. In the second each of them steps
    from $x$ with the server's optimiser, whose state $s$ (momentum, say) is the same
    for all and stays as it is: at $y$, with batch $\zeta$,

    $$y \leftarrow y + U\big(\nabla F_i(y; \zeta) - \nabla F_i(x; \zeta) + c,
    \; s\big).$$

    Then $x$ is the mean of the clients' models, and $s \leftarrow V(c, s)$.

    **Arguments:**

    - `loss`, `batching`: as in [`equifed.FedAvg`][].
    - `optim`: the optimiser, an Optax transformation: `optax.sgd(0.1, momentum=0.9)`,
        `optax.adam(1e-3)`. Its learning rate is the clients'. With a state that the
        paper writes as $m \leftarrow \beta m + (1 - \beta) g$, use
        `optax.chain(optax.ema(0.9, debias=False), optax.sgd(0.1))`.
    - `server_learning_rate`: by how much of their mean change $x$ moves; 1, as in the
        paper, if not given.
    - `aggregator`: of the clients' changes; [`equifed.UniformMean`][] if not given, as
        in the paper. `Clip(UniformMean(), max_norm)` bounds how far each may go.
    - `gradient_aggregator`: of the first pass's gradients; `aggregator` if not given.

    ??? cite "Reference"

        [Breaking the centralized barrier for cross-device federated
        learning](https://arxiv.org/abs/2008.03606)

        ```bibtex
        @inproceedings{karimireddy2021breaking,
            title={{B}reaking the {C}entralized {B}arrier for {C}ross-{D}evice
                   {F}ederated {L}earning},
            author={Karimireddy, Sai Praneeth and Jaggi, Martin and Kale, Satyen and
                    Mohri, Mehryar and Reddi, Sashank J. and Stich, Sebastian U. and
                    Suresh, Ananda Theertha},
            booktitle={NeurIPS},
            year={2021},
        }
        ```
    """

    loss: Loss
    batching: AbstractBatching
    optim: Optim
    aggregator: AbstractAggregator
    gradient_aggregator: AbstractAggregator
    server_learning_rate: Float[Array, ""]
    corrects: ClassVar[bool] = True

    @checked()
    def __init__(
        self,
        loss: Loss,
        optim: OptimLike,
        batching: AbstractBatching,
        *,
        server_learning_rate: ArrayLike = 1.0,
        aggregator: AbstractAggregator | None = None,
        gradient_aggregator: AbstractAggregator | None = None,
    ):
        self.loss = loss
        self.optim = as_optim(optim)
        self.batching = batching
        self.aggregator = UniformMean() if aggregator is None else aggregator
        same = gradient_aggregator is None
        self.gradient_aggregator = self.aggregator if same else gradient_aggregator
        self.server_learning_rate = as_number(
            "server_learning_rate", server_learning_rate, least=0
        )


class MimeLite(_AbstractMime):
    r"""[`equifed.Mime`][] without the correction.

    At $y$, with batch $\zeta$,

    $$y \leftarrow y + U\big(\nabla F_i(y; \zeta),\; s\big).$$

    Half the gradients of a local step, and client drift stays. With plain SGD this is
    FedAvg.

    **Arguments:**

    - `loss`, `optim`, `batching`, `server_learning_rate`, `aggregator`,
        `gradient_aggregator`: as in [`equifed.Mime`][].

    ??? cite "Reference"

        [Breaking the centralized barrier for cross-device federated
        learning](https://arxiv.org/abs/2008.03606)
    """

    loss: Loss
    batching: AbstractBatching
    optim: Optim
    aggregator: AbstractAggregator
    gradient_aggregator: AbstractAggregator
    server_learning_rate: Float[Array, ""]
    corrects: ClassVar[bool] = False

    @checked()
    def __init__(
        self,
        loss: Loss,
        optim: OptimLike,
        batching: AbstractBatching,
        *,
        server_learning_rate: ArrayLike = 1.0,
        aggregator: AbstractAggregator | None = None,
        gradient_aggregator: AbstractAggregator | None = None,
    ):
        self.loss = loss
        self.optim = as_optim(optim)
        self.batching = batching
        self.aggregator = UniformMean() if aggregator is None else aggregator
        same = gradient_aggregator is None
        self.gradient_aggregator = self.aggregator if same else gradient_aggregator
        self.server_learning_rate = as_number(
            "server_learning_rate", server_learning_rate, least=0
        )
