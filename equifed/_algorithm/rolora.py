"""RoLoRA: one adapter matrix a round, in turn."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, PyTree

from .._aggregator import WeightedMean
from .._bits import Bits, payload_bits, UP
from .._check import checked
from .._client import AbstractWrapper, LocalSGD
from .._optim import OptimLike
from .._round import Beginning
from .._tree import tree_add, tree_zeros_like
from .._types import Loss, Params
from .._wire import Broadcast
from ..data import AbstractBatching
from ..nn import LoRA, lora_a, lora_b
from ..nn._lora_layer import layers_of
from .adapters import check_adapters, check_no_ranks, with_pairs
from .base import NOT_KEPT
from .of_client import _AbstractOfClient


class _OneOfTwo(AbstractWrapper):
    """Trains all but A, or all but B, and sends no more than that: the broadcast's
    `shared` says whether it is A that stays."""

    client: LocalSGD

    def __init__(self, client: LocalSGD):
        self.client = client

    def init(self, params):
        return self.client.init(params)

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        params = broadcast.params

        def without(stays: Callable[[Params], PyTree]):
            all_of_it = jtu.tree_map(lambda _: True, params)
            moves = eqx.tree_at(stays, all_of_it, replace_fn=lambda _: False)
            trained, fixed = eqx.partition(params, moves)
            sent = Broadcast(trained, eqx.combine(fixed, broadcast.rest))
            message, _, metrics = self.client.round(sent, data, None, key=key)
            payload = eqx.combine(message.payload, tree_zeros_like(fixed))
            sent_up = payload_bits((trained, message.weight))
            metrics = {**metrics, UP: Bits(sent_up)}
            return dataclasses.replace(message, payload=payload), metrics

        message, metrics = jax.lax.cond(
            broadcast.shared, lambda: without(lora_a), lambda: without(lora_b)
        )
        return message, state, metrics


def _without_fixed(change: Params, a_stays: Bool[Array, ""]) -> Params:
    """A change without that of the matrix that stays, whatever somebody sent of it."""

    def of(layer: LoRA) -> tuple[Array, Array]:
        no_a, no_b = tree_zeros_like((layer.a, layer.b))
        a, b = jnp.where(a_stays, no_a, layer.a), jnp.where(a_stays, layer.b, no_b)
        return a, b

    return with_pairs(change, (of(x) for x in layers_of(change)))


class RoLoRA(_AbstractOfClient):
    r"""Alternating minimisation of adapters: $B$ in one round, $A$ in the next.

    In the first round, and then in every second one, clients train $B$ of their layers
    $W + \frac{\alpha}{r} B A$ with the server's $A$, in the others $A$ with the
    server's $B$, and the server takes the mean of that one by the numbers of examples
    $p_i$. So the mean is exact: $\sum_i p_i B_i A$ is $(\sum_i p_i B_i) A$. What else
    of the model is shared is trained in every round.

    A client sends nothing of the matrix that stays, which `bits_up` says; it is sent
    both, since it may have missed rounds. Unlike FFA-LoRA (2403.12313, `FedAvg` with
    `roles(model, shared=equifed.nn.lora_b)`) it learns $A$ too.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].

    The model has adapters by [`equifed.nn.lora`][], which are what is shared:
    `roles=equifed.roles(model, shared=equifed.nn.adapters)`.

    ??? cite "Reference"

        [Robust Federated Finetuning of LLMs via Alternating Optimization of
        LoRA](https://arxiv.org/abs/2502.01755)

        ```bibtex
        @inproceedings{chen2025robust,
            title={{R}obust {F}ederated {F}inetuning of {LLMs} via {A}lternating
                   {O}ptimization of {LoRA}},
            author={Chen, Shuangyi and Guo, Yuanxin and Ju, Yue and Dalal, Harik and
                    Zhu, Zhongwen and Khisti, Ashish},
            booktitle={NeurIPS},
            year={2025},
        }
        ```
    """

    client: _OneOfTwo

    @checked()
    def __init__(self, loss: Loss, client_optim: OptimLike, batching: AbstractBatching):
        self.client = _OneOfTwo(LocalSGD(loss, client_optim, batching))

    def begin(self, params, *, num_clients, key):
        check_adapters(type(self).__name__, params, frozen=False)
        return Beginning(params, clients=self.client.init(params))

    def keep(self, params, personal, begun):
        what = "trains its adapters in turn"
        raise ValueError(NOT_KEPT.format(type(self).__name__, what))

    def step(self, state, clients, *, key):
        check_no_ranks(type(self).__name__, clients.info)
        a_stays = state.round % 2 == 0
        sent = Broadcast(state.params, state.rest, a_stays)
        out = clients(self.client, WeightedMean(), sent, state.clients, key=key)
        change = _without_fixed(out.aggregate.payload, a_stays)
        params = tree_add(state.params, change)
        state = dataclasses.replace(state, params=params, clients=out.clients)
        return state, out.metrics, out.aggregate.accept

    def model(self, state):
        return state.model
