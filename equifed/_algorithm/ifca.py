"""IFCA: several models, of which each client trains the one that suits it best."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import as_number, check_count, checked
from .._client import AbstractWrapper, full_metrics, LocalSGD
from .._metrics import add_metrics, Sum
from .._optim import OptimLike
from .._round import Beginning, State
from .._tree import safe_divide
from .._types import Loss, Model
from .._wire import Broadcast, Message
from ..data import AbstractBatching
from .base import AbstractAlgorithm


class _PicksOne(AbstractWrapper):
    """Trains that of several models whose loss on its examples is the least, and says
    in the message's `stats` which it was."""

    client: LocalSGD

    def __init__(self, client: LocalSGD):
        self.client = client

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
        start = Broadcast(jtu.tree_map(lambda x: x[best], models), rest)
        message, _, metrics = self.client.round(start, data, None, key=train_key)

        own = jax.nn.one_hot(best, losses.size, dtype=losses.dtype)
        payload = jtu.tree_map(
            lambda x, d: jnp.zeros_like(x).at[best].set(d), models, message.payload
        )
        present = (message.weight > 0).astype(losses.dtype)
        metrics = add_metrics(metrics, {"clusters": Sum(present * own)})
        return Message(payload, message.weight, own), state, metrics


class IFCA(AbstractAlgorithm):
    r"""The iterative federated clustering algorithm, with model averaging.

    The server keeps $k$ models $\theta_1, \dots, \theta_k$. Client $i$ measures its
    loss $F_i$ under each of them, runs local SGD from the best, $j_i = \arg\min_j
    F_i(\theta_j)$, and each model becomes the mean of those that came of it:

    $$\theta_j \leftarrow \theta_j + \frac{\sum_i [j_i = j]\, \Delta_i}{\sum_i
    [j_i = j]}.$$

    A model that nobody picked stays as it is. The metrics gain `clusters`: how many
    clients picked each.

    There is no one model to evaluate: `algorithm.models(state)` gives them all.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].
    - `num_clusters`: $k$.
    - `spread`: the models begin around the one that `init` is given, with independent
        normal noise of this standard deviation on every number. `init` needs a key.
    - `aggregator`: a mean; [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [An Efficient Framework for Clustered Federated
        Learning](https://arxiv.org/abs/2006.04088)

        ```bibtex
        @inproceedings{ghosh2020efficient,
            title={{A}n {E}fficient {F}ramework for {C}lustered {F}ederated {L}earning},
            author={Ghosh, Avishek and Chung, Jichan and Yin, Dong and Ramchandran,
                    Kannan},
            booktitle={NeurIPS},
            year={2020},
        }
        ```
    """

    client: _PicksOne
    aggregator: AbstractAggregator
    num_clusters: int
    spread: Float[Array, ""]

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        num_clusters: int,
        spread: ArrayLike = 0.1,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = _PicksOne(LocalSGD(loss, client_optim, batching))
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.num_clusters = check_count("num_clusters", num_clusters)
        self.spread = as_number("spread", spread, least=0)

    @property
    def loss(self) -> Loss:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.loss

    @property
    def batching(self) -> AbstractBatching:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.batching

    def begin(self, params, *, num_clients, key):
        if key is None:
            raise ValueError(
                "`IFCA` begins with random models and needs a key, got None. Give "
                "`algorithm.init(model, num_clients=..., key=jax.random.key(0))`."
            )
        leaves, treedef = jtu.tree_flatten(params)
        keys = jr.split(key, len(leaves))

        def several(x, key):
            noise = jr.normal(key, (self.num_clusters, *x.shape), x.dtype)
            return x[None] + self.spread.astype(x.dtype) * noise

        models = jtu.tree_unflatten(treedef, map(several, leaves, keys))
        return Beginning(models, aggregator=self.aggregator.init(models))

    def step(self, state, clients, *, key):
        out = clients(
            self.client,
            self.aggregator,
            Broadcast(state.params, state.rest),
            aggregator_state=state.aggregator,
            key=key,
        )
        share = out.aggregate.stats

        def move(x, total):
            own = share.reshape(-1, *[1] * (x.ndim - 1)).astype(total.dtype)
            return x + safe_divide(total, own).astype(x.dtype)

        params = jtu.tree_map(move, state.params, out.aggregate.payload)
        state = dataclasses.replace(state, params=params, aggregator=out.aggregator)
        return state, out.metrics, out.aggregate.accept

    def model(self, state):
        return None

    def models(self, state: State) -> list[Model]:
        """The models, each as the user's own."""
        return [
            eqx.combine(jtu.tree_map(lambda x: x[k], state.params), state.rest)  # noqa: B023
            for k in range(self.num_clusters)
        ]
