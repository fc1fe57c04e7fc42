"""DiLoCo: clients that keep their optimiser, and momentum outside."""

from collections.abc import Callable

import jax.random as jr
import optax
from jaxtyping import Array, PRNGKeyArray

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked
from .._client import AbstractClient, batch_gradient, merge_metrics, zero_metrics
from .._client.reach import only, reached
from .._cohort import ClientData
from .._metrics import AbstractMetric
from .._noise import reseed_noise
from .._optim import as_optim, Optim, OptimLike
from .._server import OptaxServer
from .._tree import tree_add, tree_sub
from .._types import ClientState, Loss, Params
from .._wire import Broadcast, CHANGE, Message
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class _KeepsOptimizer(AbstractClient):
    """Local steps of an optimiser whose state the client keeps from round to round."""

    loss: Loss
    batching: AbstractBatching
    optim: Optim
    sends = (CHANGE,)
    follows_loss = True

    def init(self, params):
        return self.optim.init(params)

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        params, state, metrics = self.steps(broadcast, data, state, key=key)
        delta = tree_sub(params, broadcast.params)
        return Message(delta, data.weight), state, metrics

    def steps(
        self,
        broadcast: Broadcast,
        data: ClientData,
        state: ClientState,
        *,
        key: PRNGKeyArray,
        before: Callable[[Params, Array], Params] = lambda params, i: params,
    ) -> tuple[Params, ClientState, dict[str, AbstractMetric]]:
        """Where they lead, each beginning with what `before` makes of the params."""
        start, rest = broadcast.params, broadcast.rest
        where = reached(self.loss, broadcast, data.example)
        step_key, noise_key = jr.split(key)
        optim, state = reseed_noise((self.optim, state), noise_key)

        def step(carry, examples, mask, i):
            params, state, metrics = carry
            params = before(params, i)
            batch, key = (rest, examples, mask), jr.fold_in(step_key, i)
            grads, new = batch_gradient(self.loss, params, *batch, key=key)
            updates, state = optim.update(grads, state, params)
            params = only(where, tree_add(params, updates), params)
            return params, state, merge_metrics(metrics, new)

        metrics = zero_metrics(self.loss, broadcast.model, data.example)
        return data.fold(step, (start, state, metrics))


class DiLoCo(AbstractOnePass):
    r"""Distributed low-communication training: many local steps of an optimiser that
    each client keeps, and Nesterov momentum between rounds.

    Client $i$ takes its steps (500 of AdamW, in the paper) from the server's $x$ to
    $\theta_i$, and its optimiser's state stays with it for the next round. The mean of
    $x - \theta_i$ is the outer gradient, which the server's optimiser is given. With
    `optax.contrib.muon` inside it is MuLoCo (2505.23725).

    **Arguments:**

    - `loss`, `batching`: as in [`equifed.FedAvg`][].
    - `client_optim`: the inner optimiser, an Optax transformation; `optax.adamw(4e-4)`,
        say.
    - `server_optim`: the outer one; if not given
        `optax.sgd(0.7, momentum=0.9, nesterov=True)`, as in the paper.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [DiLoCo: Distributed Low-Communication Training of Language
        Models](https://arxiv.org/abs/2311.08105)

        ```bibtex
        @article{douillard2023diloco,
            title={{DiLoCo}: {D}istributed {L}ow-{C}ommunication {T}raining of
                   {L}anguage {M}odels},
            author={Douillard, Arthur and Feng, Qixuan and Rusu, Andrei A. and
                    Chhaparia, Rachita and Donchev, Yani and Kuncoro, Adhiguna and
                    Ranzato, Marc'Aurelio and Szlam, Arthur and Shen, Jiajun},
            journal={arXiv:2311.08105},
            year={2023},
        }
        ```
    """

    client: _KeepsOptimizer
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = _KeepsOptimizer(loss, batching, as_optim(client_optim))
        self.aggregator = UniformMean() if aggregator is None else aggregator
        if server_optim is None:
            server_optim = optax.sgd(0.7, momentum=0.9, nesterov=True)
        self.server = OptaxServer(server_optim)
