r"""What methods share that look at the products of adapters.

A layer computes $W + s B A$ with $s = \alpha / r$, and means are not what they seem:
$\overline{B}\,\overline{A}$, of which FedAvg is the model, is not $\overline{B A}$.
Their difference is $\frac1{|S|} \sum_i (B_i - \overline B)(A_i - \overline A)$ of equal
weights. Here a client sends its adapters themselves, the sum runs over them and over
the products that the server makes of them, and a frozen $W$ can be moved.
"""

import abc
import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from .._aggregator import AbstractAggregator, WeightedMean
from .._client import AbstractWrapper, LocalSGD
from .._cohort import ClientData
from .._round import Beginning
from .._tree import tree_add, tree_zeros_like
from .._types import Model, Params
from .._wire import Aggregate, Broadcast
from ..nn import adapters, LoRA, lora_a, lora_b
from ..nn._lora_layer import added, fresh_a, layers_of
from .base import NOT_KEPT
from .of_client import _AbstractOfClient


Deltas = tuple[Float[Array, "..."], ...]


class Products(eqx.Module):
    """What the server has of a message, or of the mean of several."""

    payload: Params
    """The adapters, and of all else that is trained its change."""
    deltas: Deltas
    r"""$s B A$ of each layer."""


def deltas_of(tree: Params) -> Deltas:
    return tuple(x.delta for x in layers_of(tree))


def moved(model: Model, change: Deltas) -> Model:
    """The model whose adapted layers have other weights, of their own dtype."""

    def weights(m: Model) -> list[Any]:
        return [x.base.weight for x in layers_of(m)]

    new = [added(w, d) for w, d in zip(weights(model), change, strict=True)]
    return eqx.tree_at(weights, model, new)


def with_adapters(tree: Params, like: Params) -> Params:
    """The tree with the adapters of another one."""
    return eqx.tree_at(adapters, tree, adapters(like))


def with_pairs(tree: Params, pairs: Iterable[tuple[Array, Array]]) -> Params:
    """The tree with other A and B, those of each layer."""
    all_a, all_b = zip(*pairs, strict=True)
    return eqx.tree_at(adapters, tree, (*all_a, *all_b))


class MeanOfProducts(AbstractAggregator):
    r"""The weighted means of the messages and of their products $s B_i A_i$."""

    mean: WeightedMean = WeightedMean()

    @property
    def gathers(self):
        return False

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        products = Products(message.payload, deltas_of(message.payload))
        message = dataclasses.replace(message, payload=products)
        return self.mean.encode(message, state, key=key)

    def decode(self, encoded, state, *, key):
        return self.mean.decode(encoded, state, key=key)


class OfAdapters(AbstractWrapper):
    r"""A client that is sent what its frozen weights are to be moved by, and sends its
    adapters whole.

    A cohort's `info["rank"]`, where it has one, is the rank $r_i$ of a client: it
    begins with the first $r_i$ rows of $A$ and columns of $B$. The others are 0, and
    have no gradient then.
    """

    client: LocalSGD
    fresh: bool = eqx.field(static=True)
    """Whether it begins with adapters of its own: a random $A$, and $B = 0$."""

    def __init__(self, client: LocalSGD, *, fresh: bool = False):
        self.client = client
        self.fresh = fresh

    def init(self, params):
        return self.client.init(params)

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        params, rest = broadcast.params, broadcast.rest
        if self.fresh:
            draw_key, key = jr.split(key)
            params = _fresh(params, draw_key)
        params = of_rank(params, data)
        if broadcast.shared:
            rest = moved(rest, broadcast.shared)
        sent = Broadcast(params, rest)
        message, state, metrics = self.client.round(sent, data, state, key=key)
        whole = tree_add(params, message.payload)
        payload = with_adapters(message.payload, whole)
        return dataclasses.replace(message, payload=payload), state, metrics


def _fresh(params: Params, key: PRNGKeyArray) -> Params:
    layers = layers_of(params)
    keys = jr.split(key, len(layers))
    new = [fresh_a(x, k) for x, k in zip(layers, keys, strict=True)]
    return _without_b(eqx.tree_at(lora_a, params, tuple(new)))


def _without_b(params: Params) -> Params:
    return eqx.tree_at(lora_b, params, tree_zeros_like(lora_b(params)))


def check_no_ranks(name: str, info: PyTree) -> None:
    """Refuses ranks of the clients' own, for a method that would not heed them."""
    if isinstance(info, dict) and "rank" in info:
        raise ValueError(
            f"`{name}` has one rank for all clients, and the cohort's `info` has a "
            "'rank' of each. Leave it out, or take `FLoRA`, `FlexLoRA` or `HetLoRA`."
        )


def of_rank(params: Params, data: ClientData) -> Params:
    rank = told_rank(data)
    if rank is None:
        return params
    return with_pairs(params, (cut(layer, rank) for layer in layers_of(params)))


def told_rank(data: ClientData) -> Int[Array, ""] | None:
    """The rank that the loader gives a client, if it gives it one."""
    if not isinstance(data.info, dict) or "rank" not in data.info:
        return None
    rank = data.info["rank"]
    if rank.ndim > 0 or not jnp.issubdtype(rank.dtype, jnp.integer):
        raise ValueError(
            "`info['rank']` must be a whole number for each client, got "
            f"{rank.dtype}{list(rank.shape)}."
        )
    return rank


def cut(layer: LoRA, rank: Int[Array, "..."]) -> tuple[Array, Array]:
    """A and B of a smaller rank, with 0 in place of the rest: each of stacked layers of
    its own, or all of one."""
    rank = jnp.broadcast_to(rank, layer.a.shape[:-2])[..., None]
    keeps = jnp.arange(layer.rank) < rank
    # A rank that there is not makes a message that is not finite, and is counted.
    known = ((rank >= 1) & (rank <= layer.rank))[..., None]
    a, b = at_ranks(layer, keeps)
    return jnp.where(known, a, jnp.full_like(a, jnp.nan)), b


def at_ranks(layer: LoRA, keeps: Bool[Array, "... rank"]) -> tuple[Array, Array]:
    """A and B with 0 for all ranks but some."""
    a = jnp.where(keeps[..., None], layer.a, jnp.zeros_like(layer.a))
    b = jnp.where(keeps[..., None, :], layer.b, jnp.zeros_like(layer.b))
    return a, b


class _AbstractOfProducts(_AbstractOfClient):
    """One pass, after which the server looks at the mean of the clients' products."""

    client: eqx.AbstractVar[OfAdapters]
    moves: ClassVar[bool] = True
    """Whether it moves frozen weights."""
    takes_ranks: ClassVar[bool] = True
    """Whether clients may have ranks of their own."""

    @abc.abstractmethod
    def after(
        self, params: Params, change: Deltas, mean: Products
    ) -> tuple[Params, Deltas]:
        """The next params, and by what the frozen weights have been moved by then.

        **Arguments:**

        - `params`: this round's, with the mean change of all that is no adapter.
        - `change`: by what the frozen weights have been moved so far; empty for a
            method that does not move them.
        - `mean`: of the messages and of their products.
        """

    def begin(self, params, *, num_clients, key):
        name = type(self).__name__
        check_adapters(name, params, frozen=self.moves)
        change = tree_zeros_like(deltas_of(params)) if self.moves else ()
        if self.client.fresh:
            # What the model's own adapters have learnt belongs to the weights.
            change, params = deltas_of(params), _without_b(params)
        return Beginning(params, server=change, clients=self.client.init(params))

    def keep(self, params, personal, begun):
        what = "is sent whole adapters"
        raise ValueError(NOT_KEPT.format(type(self).__name__, what))

    def step(self, state, clients, *, key):
        if not self.takes_ranks:
            check_no_ranks(type(self).__name__, clients.info)
        sent = Broadcast(state.params, state.rest, state.server)
        out = clients(self.client, MeanOfProducts(), sent, state.clients, key=key)
        params, change = self._next(state.params, state.server, out.aggregate)
        state = dataclasses.replace(
            state, params=params, server=change, clients=out.clients
        )
        return state, out.metrics, out.aggregate.accept

    def _next(
        self, params: Params, change: Deltas, aggregate: Aggregate
    ) -> tuple[Params, Deltas]:
        mean: Products = aggregate.payload
        others = with_adapters(tree_add(params, mean.payload), params)
        new = self.after(others, change, mean)
        # Sums are wider than params of few bits.
        return jtu.tree_map(lambda x, y: x.astype(y.dtype), new, (params, change))

    def model(self, state):
        return moved(state.model, state.server) if self.moves else state.model


def check_adapters(name: str, params: Params, *, frozen: bool) -> None:
    """Refuses a model without adapters, or whose adapters are not trained and sent.

    **Arguments:**

    - `frozen`: whether the weights that they change must be frozen too.
    """
    layers = layers_of(params)
    if not layers:
        raise ValueError(
            f"`{name}` needs layers with a change of low rank that are trained, and "
            "the model has none. Make them with `equifed.nn.lora`, and share them with "
            "`roles=equifed.roles(model, shared=equifed.nn.adapters)`."
        )
    if any(x.a is None or x.b is None for x in layers):
        raise ValueError(
            f"`{name}` needs both A and B of each layer that has them to be shared, "
            "for it looks at their product. Use `roles=equifed.roles(model, "
            "shared=equifed.nn.adapters)`."
        )
    if frozen and any(x.base.weight is not None for x in layers):
        raise ValueError(
            f"`{name}` moves the weights under the adapters itself, so that they must "
            "be frozen, and they are trained. Use `roles=equifed.roles(model, "
            "shared=equifed.nn.adapters)`."
        )
