"""HetLoRA: clients of different ranks, who prune their own."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from .._aggregator import AbstractAggregator, UniformMean
from .._bits import Bits, payload_bits, UP
from .._check import checked, number
from .._client import AbstractMemoryless, AbstractWrapper, LocalSGD
from .._optim import OptimLike
from .._round import Beginning
from .._tree import safe_divide, tree_add, tree_cast_like
from .._types import Loss, Params
from .._wire import Broadcast, CHANGE, Message
from ..data import AbstractBatching
from ..nn import adapters, LoRA
from ..nn._lora_layer import layers_of
from .adapters import (
    at_ranks,
    check_adapters,
    cut,
    of_rank,
    told_rank,
    with_adapters,
    with_pairs,
)
from .base import NOT_KEPT
from .of_client import _AbstractOfClient


Ranks = tuple[Int[Array, "..."], ...]


def _root(square: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root, whose slope at 0 is 0."""
    above = square > 0
    root = jnp.sqrt(jnp.where(above, square, jnp.ones_like(square)))
    return jnp.where(above, root, jnp.zeros_like(square))


def _norm(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return _root(jnp.sum(x**2, axis=(-2, -1), keepdims=True))


class _LastRanks(AbstractMemoryless):
    r"""Pulls the last ranks of each layer towards 0: the gradient of
    $\lambda \lVert B_{:, l:r} \rVert \, \lVert A_{l:r, :} \rVert$ with
    $l = \lfloor \gamma r \rfloor$. A client's ranks are what it is broadcast."""

    sends = (CHANGE,)
    lam: Float[Array, ""] = eqx.field(converter=number("lam", least=0))
    gamma: Float[Array, ""] = eqx.field(
        converter=number("gamma", least=0, most=1, strict=True)
    )

    def smaller(self, rank: Int[Array, "..."]) -> Int[Array, "..."]:
        """What is left of a rank, which is 1 at least."""
        # 0.7 of 10 is 7, whatever the last bit of 0.7 is.
        kept = jnp.floor(self.gamma * rank.astype(self.gamma.dtype) + 1e-3)
        return jnp.clip(kept.astype(rank.dtype), 1, rank)

    def last(self, layer: LoRA, rank: Int[Array, "..."]) -> tuple[Array, Array]:
        """The A and B that would be pruned, with 0 for the others."""
        place = jnp.arange(layer.rank)
        inside = (place >= self.smaller(rank)[..., None]) & (place < rank[..., None])
        return at_ranks(layer, inside)

    def size(self, layer: LoRA, rank: Int[Array, "..."]) -> Float[Array, "..."]:
        """The product of their norms."""
        a, b = self.last(layer, rank)
        return (_norm(a) * _norm(b))[..., 0, 0]

    def begin(self, params, shared, state, gradient):
        return shared

    def correct(self, grads, params, carry, gradient):
        def pulled(slope: LoRA, layer: LoRA, rank: Array) -> tuple[Array, Array]:
            a, b = self.last(layer, rank)
            lam, of_a, of_b = self.lam.astype(a.dtype), _norm(a), _norm(b)
            pull_a, pull_b = safe_divide(of_b, of_a) * a, safe_divide(of_a, of_b) * b
            return slope.a + lam * pull_a, slope.b + lam * pull_b

        layers = zip(layers_of(grads), layers_of(params), carry, strict=True)
        return with_pairs(grads, (pulled(*layer) for layer in layers)), carry


class _Prunes(AbstractWrapper):
    """A client that trains adapters of its own ranks, which it keeps, and sends what is
    left of them."""

    client: LocalSGD
    last: _LastRanks

    def __init__(self, client: LocalSGD, last: _LastRanks):
        self.client, self.last = client, last

    def init(self, params):
        layers = layers_of(params)
        return tuple(jnp.full(x.a.shape[:-2], x.rank, jnp.int32) for x in layers)

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        told, ranks = told_rank(data), state
        if told is not None:
            most = jnp.maximum(told, 0).astype(jnp.int32)
            ranks = tuple(jnp.minimum(x, most) for x in state)
        start = _cut(of_rank(broadcast.params, data), ranks)
        sent = Broadcast(start, broadcast.rest, ranks)
        message, _, metrics = self.client.round(sent, data, None, key=key)
        whole = tree_add(start, message.payload)
        left, kept = zip(*self._pruned(start, whole, ranks, state), strict=True)
        payload = with_adapters(message.payload, _cut(whole, left))
        message = dataclasses.replace(message, payload=payload)
        return message, kept, {**metrics, UP: _bits(message, left)}

    def _pruned(
        self, start: Params, end: Params, ranks: Ranks, kept: Ranks
    ) -> Iterator[tuple[Array, Array]]:
        """The rank that is left of each layer, and the one that is kept."""
        layers = zip(layers_of(start), layers_of(end), ranks, kept, strict=True)
        for before, after, rank, own in layers:
            fell = self.last.size(after, rank) < self.last.size(before, rank)
            less = self.last.smaller(rank)
            yield jnp.where(fell, less, rank), jnp.where(fell, less, own)


def _cut(params: Params, ranks: Ranks) -> Params:
    layers = zip(layers_of(params), ranks, strict=True)
    return with_pairs(params, (cut(*layer) for layer in layers))


def _bits(message: Message, ranks: Ranks) -> Bits:
    """Of a message whose adapters have these ranks."""
    others = eqx.tree_at(adapters, message.payload, replace_fn=lambda _: None)
    total: Any = Bits(payload_bits((others, message.weight)))
    for layer, rank in zip(layers_of(message.payload), ranks, strict=True):
        one = payload_bits((layer.a, layer.b)) // (layer.rank * rank.size)
        total = total.merge(Bits(one * jnp.sum(rank)))
    return total


class _Weighed(eqx.Module):
    """Adapters times the norms of their products, and the norms."""

    payload: Params
    norms: tuple[Float[Array, "..."], ...]


class _BySparsity(AbstractAggregator):
    r"""The mean of each layer's adapters, weighed by $\lVert B_i A_i \rVert_F$; of all
    else the uniform one."""

    mean: UniformMean = UniformMean()

    @property
    def gathers(self):
        return False

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        layers = layers_of(message.payload)
        # The squared norm of a product is the inner one of two small matrices.
        squares = [jnp.sum((x.b.mT @ x.b) * (x.a @ x.a.mT), (-2, -1)) for x in layers]
        norms = tuple(_root(x)[..., None, None] for x in squares)
        pairs = zip(layers, norms, strict=True)
        weighed = with_pairs(message.payload, ((n * x.a, n * x.b) for x, n in pairs))
        message = dataclasses.replace(message, payload=_Weighed(weighed, norms))
        return self.mean.encode(message, state, key=key)

    def decode(self, encoded, state, *, key):
        return self.mean.decode(encoded, state, key=key)


def _next(params: Params, mean: _Weighed) -> Params:
    def of(layer: LoRA, weighed: LoRA, norm: Array) -> tuple[Array, Array]:
        # Of adapters that have all learnt nothing there is no mean.
        known = norm > 0
        norm = jnp.where(known, norm, jnp.ones_like(norm))
        a = jnp.where(known, weighed.a / norm, layer.a.astype(norm.dtype))
        b = jnp.where(known, weighed.b / norm, layer.b.astype(norm.dtype))
        return a, b

    layers = zip(layers_of(params), layers_of(mean.payload), mean.norms, strict=True)
    others = tree_add(params, mean.payload)
    return tree_cast_like(with_pairs(others, (of(*x) for x in layers)), params)


class HetLoRA(_AbstractOfClient):
    r"""Adapters of each client's own ranks, which it prunes, and a mean that weighs
    them by what they have learnt.

    Client $i$ is sent the first $r_i$ rows of $A$ and columns of $B$. With
    $l_i = \lfloor \gamma r_i \rfloor$, 1 at least, it takes its steps on

    $$f_i(A, B) + \lambda \lVert B_{:, l_i:r_i} \rVert_F \,
    \lVert A_{l_i:r_i, :} \rVert_F,$$

    and if that product of norms is less at their end than it was at their beginning,
    it prunes these last ranks: $r_i \leftarrow l_i$, for good. What is left, $A_i$ and
    $B_i$ with zeros up to $r$, is weighed by the Frobenius norms of the products:

    $$A \leftarrow \sum_i \frac{z_i}{Z} A_i, \quad B \leftarrow \sum_i \frac{z_i}{Z}
    B_i, \qquad z_i = \lVert B_i A_i \rVert_F, \quad Z = \sum_i z_i.$$

    So a client of few ranks does not draw the others' last ones to 0 as much as in a
    plain mean. It is a mean of adapters, not of their products.

    The paper's are these equations, of one matrix: adapters that are cut to be sent and
    filled up with zeros to be averaged, the penalty, when it is pruned, the weights.
    Ours is what becomes of several layers and of the corners: each layer has ranks,
    prunes them, and weighs its adapters for itself (one weight of a client for all its
    layers, from the sum of their norms, is another way to read it); $\gamma r_i$ is
    rounded down; what is pruned stays so in later rounds; of what is trained beside the
    adapters the mean is uniform, as weights know no numbers of examples; where all
    products are 0, a layer's adapters stay as they were.

    A cohort's `info["rank"]` is $r_i$ before pruning, at most the layers' $r$
    (`Loader(info=lambda round, clients: {"rank": ...})`); all begin with $r$ without
    it. Each client keeps its ranks. The scale $\alpha / r$ is the layer's. `bits_up`
    counts the ranks that are sent, `bits_down` adapters of the rank $r$.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].
    - `lam`: $\lambda$, how much the last ranks are pulled to 0; at least 0.
    - `gamma`: $\gamma$, more than 0 and at most 1, with which nothing is pruned.

    The model has adapters by [`equifed.nn.lora`][], which are what is shared:
    `roles=equifed.roles(model, shared=equifed.nn.adapters)`.

    ??? cite "Reference"

        [Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation
        Models](https://arxiv.org/abs/2401.06432)

        ```bibtex
        @inproceedings{cho2024heterogeneous,
            title={{H}eterogeneous {LoRA} for {F}ederated {F}ine-tuning of {O}n-{D}evice
                   {F}oundation {M}odels},
            author={Cho, Yae Jee and Liu, Luyang and Xu, Zheng and Fahrezi, Aldi and
                    Joshi, Gauri},
            booktitle={EMNLP},
            year={2024},
        }
        ```
    """

    client: _Prunes

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        lam: ArrayLike,
        gamma: ArrayLike,
    ):
        last = _LastRanks(lam, gamma)
        client = LocalSGD(loss, client_optim, batching, correction=last)
        self.client = _Prunes(client, last)

    def begin(self, params, *, num_clients, key):
        check_adapters(type(self).__name__, params, frozen=False)
        return Beginning(params, clients=self.client.init(params))

    def keep(self, params, personal, begun):
        what = "is sent whole adapters"
        raise ValueError(NOT_KEPT.format(type(self).__name__, what))

    def step(self, state, clients, *, key):
        sent = Broadcast(state.params, state.rest)
        out = clients(self.client, _BySparsity(), sent, state.clients, key=key)
        params = _next(state.params, out.aggregate.payload)
        state = dataclasses.replace(state, params=params, clients=out.clients)
        return state, out.metrics, out.aggregate.accept

    def model(self, state):
        return state.model
