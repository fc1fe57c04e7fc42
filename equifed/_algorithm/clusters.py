"""Clusters: several models, of which each client trains the one that suits it best.

What the methods of this kind share. They differ in who counts how much in the mean of
a cluster, and in what its server does with that mean.
"""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float

from .._aggregator import (
    AbstractAggregator,
    Clip,
    DropNonfinite,
    UniformMean,
    WeightedMean,
)
from .._bits import Bits, payload_bits, UP
from .._check import check_kind, checked
from .._client import AbstractWrapper, full_metrics, LocalSGD
from .._client.reach import only, reached
from .._metrics import add_metrics, Sum
from .._noise import reseed_noise
from .._round import Beginning, State
from .._server import OptaxServer
from .._tree import difference, safe_divide, tree_row, tree_there
from .._types import Model
from .._wire import Broadcast, CHANGE, Message
from .._words import shown
from .of_client import _AbstractOfClient


class PicksBest(AbstractWrapper):
    """A client that trains that of several models whose mean loss on its examples is
    the least.

    The broadcast's params have a leading axis of models, and so has what it sends: the
    change of the one that it trained, and zeros. In the message's `stats` is a vector
    with 1 for that one, and 0 for the others.

    **Arguments:**

    - `client`: how the model is trained, with a correction that remembers nothing.
    """

    client: LocalSGD

    @checked()
    def __init__(self, client: LocalSGD):
        self.client = client

    def __check_init__(self):
        if self.client.sends and CHANGE not in self.client.sends:
            raise ValueError(
                "`PicksBest` takes `NoCorrection`, `Proximal` or another correction "
                "that remembers nothing, got "
                f"`{type(self.client.correction).__name__}`: whose memory would it be, "
                "of several models?"
            )

    def init(self, params):
        return None

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        models, rest = broadcast.params, broadcast.rest
        measure_key, train_key = jr.split(key)
        size = self.batching.batch_size

        def mean_loss(params):
            at = Broadcast(params, rest)
            metrics = full_metrics(self.loss, at, data, size, key=measure_key)
            return metrics["loss"].compute()

        losses = jax.vmap(mean_loss)(models)
        # NaN is the worst of all; a client without examples sends nothing anyway.
        best = jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses))
        start = Broadcast(tree_row(models, best), rest)
        message, _, metrics = self.client.round(start, data, None, key=train_key)

        own = jax.nn.one_hot(best, losses.size, dtype=losses.dtype)
        payload = jtu.tree_map(
            lambda x, d: jnp.zeros_like(x).at[best].set(d), models, message.payload
        )
        present = (message.weight > 0).astype(losses.dtype)
        metrics = add_metrics(metrics, {"clusters": Sum(present * own)})
        # What travels is the one change, and a number that says of which model it is.
        sent = payload_bits((message.payload, message.weight, best))
        metrics = add_metrics(metrics, {UP: Bits(sent)})
        return Message(payload, message.weight, own), state, metrics


class AbstractClusters(_AbstractOfClient):
    r"""An algorithm of $k$ models, of which each client trains its best.

    A client measures the loss on its examples under each of the models, trains the one
    of the least, and sends which it was. The server takes, for each model, the mean of
    the changes $\Delta_i$ of those who trained it,

    $$\overline\Delta_j = \frac{\sum_i w_i [j_i = j]\, \Delta_i}{\sum_i w_i
    [j_i = j]},$$

    weighted as the aggregator weighs, which is a mean, and steps along it with an
    optimiser of that model's own. A model that nobody trained stays as it is, and so
    does the state of its optimiser.

    The metrics of a round gain `clusters`: how many clients trained each model. A
    subclass binds the parts in its `__init__`, as [`equifed.IFCA`][] does.
    """

    client: eqx.AbstractVar[PicksBest]
    aggregator: eqx.AbstractVar[AbstractAggregator]
    server: eqx.AbstractVar[OptaxServer]
    num_clusters: eqx.AbstractVar[int]
    spread: eqx.AbstractVar[Float[Array, ""]]

    def __check_init__(self):
        check_kind("client", self.client, PicksBest)
        check_kind("aggregator", self.aggregator, AbstractAggregator)
        check_kind("server", self.server, OptaxServer)
        inner = self.aggregator
        while isinstance(inner, Clip | DropNonfinite):
            inner = inner.aggregator
        if not isinstance(inner, WeightedMean | UniformMean):
            raise TypeError(
                f"`aggregator` must be a mean, since `{type(self).__name__}` divides "
                "what comes of it by the share of each model's clients, got "
                f"{shown(self.aggregator)}. Give `WeightedMean()` or `UniformMean()`, "
                "or one of them in `Clip` or `DropNonfinite`."
            )

    def begin(self, params, *, num_clients, key):
        if key is None:
            raise ValueError(
                f"`{type(self).__name__}` begins with random models and needs a key, "
                "got None. Give `algorithm.init(model, num_clients=..., "
                "key=jax.random.key(0))`."
            )
        leaves, treedef = jtu.tree_flatten(params)
        keys = jr.split(key, len(leaves))

        def several(x, key):
            noise = jr.normal(key, (self.num_clusters, *x.shape), x.dtype)
            return x[None] + self.spread.astype(x.dtype) * noise

        models = jtu.tree_unflatten(treedef, map(several, leaves, keys))
        server = jax.vmap(lambda x: self.server.init(x, num_clients=num_clients))
        return Beginning(models, server(models), self.aggregator.init(models))

    def _check_number(self, state: State) -> None:
        sizes = {x.shape[:1] for x in jtu.tree_leaves(state.params)}
        if sizes != {(self.num_clusters,)}:
            raise ValueError(
                f"The state is not of {self.num_clusters} models, got params of "
                f"{shown(state.params)}. Take the one that `algorithm.init` returned."
            )

    def step(self, state, clients, *, key):
        self._check_number(state)
        client_key, server_key = jr.split(key)
        models = Broadcast(state.params, state.rest)
        out = clients(
            self.client,
            self.aggregator,
            models,
            aggregator_state=state.aggregator,
            key=client_key,
        )
        first = Broadcast(tree_row(state.params, 0), state.rest)
        where = reached(self.loss, first, clients.example)

        def move(params, total, share, at_server, key):
            """One cluster's server. What it is sent is the mean over all clients, of
            which `share` are its own."""
            own = jtu.tree_map(lambda x: safe_divide(x, share.astype(x.dtype)), total)
            server, old = reseed_noise((self.server, at_server), key)
            mean = eqx.tree_at(lambda x: x.payload, out.aggregate, own)
            new, at_server = server.round(params, mean, old, key=key)
            picked = share > 0
            return jtu.tree_map(
                lambda new, old: jnp.where(picked, new, old),
                (only(where, new, params), at_server),
                (params, old),
            )

        keys = jr.split(server_key, self.num_clusters)
        aggregate = out.aggregate
        params, at_server = jax.vmap(move)(
            state.params, aggregate.payload, aggregate.stats, state.server, keys
        )
        state = dataclasses.replace(
            state, params=params, server=at_server, aggregator=out.aggregator
        )
        return state, out.metrics, aggregate.accept

    def model(self, state):
        return None

    def models(self, state: State) -> list[Model]:
        """The $k$ models, each as the user's own.

        **Raises:**

        `ValueError` if the state is of another number of them.
        """
        self._check_number(state)
        several = range(self.num_clusters)
        return [eqx.combine(tree_row(state.params, k), state.rest) for k in several]

    @checked(models="Give a list of models like the one that `init` was given.")
    def with_models(self, state: State, models: Sequence[Model]) -> State:
        """The state with these models in place of its own, to begin with: those of
        [`equifed.farthest_first`][], or independent ones,
        `[make(key) for key in keys]`.

        **Raises:**

        `ValueError` if there are not $k$ of them, if they are not like the state's, or
        differ in what is not trained.
        """
        self._check_number(state)
        if len(models) != self.num_clusters:
            raise ValueError(
                f"`models` must be {self.num_clusters}, one for each cluster, got "
                f"{len(models)}."
            )
        like = self.models(state)[0]
        for i, model in enumerate(models):
            apart = difference(f"models[{i}]", model, like)
            if apart is not None:
                raise ValueError(
                    f"`models` must be like the state's, but {apart}. Make them as the "
                    "model that `init` was given."
                )
        trains = tree_there(state.params)
        trained, rest = zip(*(eqx.partition(x, trains) for x in models), strict=True)
        for i, other in enumerate(rest):
            if not eqx.tree_equal(other, state.rest):
                raise ValueError(
                    f"`models` must have the same of what is not trained, but "
                    f"`models[{i}]` has something else than the state. Name it in "
                    "`init(..., roles=)`, or make it alike."
                )
        params = jtu.tree_map(lambda *x: jnp.stack(x), *trained)
        return dataclasses.replace(state, params=params)
