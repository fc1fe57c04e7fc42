"""q-FedAvg: clients with a high loss count more, by a power of it."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import as_number, checked
from .._client import AbstractWrapper, full_metrics, LocalSGD
from .._server import AbstractServer
from .._tree import safe_divide, tree_add_scaled, tree_norm, tree_scale
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


SCALED = "changes times powers of the loss (`QFedAvg`)"


class _SendsPowers(AbstractWrapper):
    r"""$F^q \delta$, and beside it $h$, both divided by $L = 1 / \eta$."""

    client: LocalSGD
    learning_rate: Float[Array, ""]
    q: Float[Array, ""]
    sends = (SCALED,)

    def __init__(self, client: LocalSGD, learning_rate: Array, q: Array):
        self.client = client
        self.learning_rate = learning_rate
        self.q = q

    def init(self, params):
        return None

    def payload(self, params):
        return self.client.payload(params)

    def round(self, broadcast, data, state, *, key):
        measure_key, key = jr.split(key)
        message, _, metrics = self.client.round(broadcast, data, None, key=key)
        size = self.batching.batch_size
        of_all = full_metrics(self.loss, broadcast, data, size, key=measure_key)
        average: Any = of_all["loss"]
        loss, q = safe_divide(average.total, average.weight), self.q
        # An even power would hide that a loss is negative.
        power = jnp.where((q == 0) | (loss >= 0), loss**q, jnp.nan)
        square = jnp.square(tree_norm(message.payload)).astype(loss.dtype)
        # A loss of 0, the least there is, has no gradient, so that nothing changed.
        slope = safe_divide(q * power, loss)
        h = power + slope * square / self.learning_rate
        payload = tree_scale(power, message.payload)
        return dataclasses.replace(message, payload=payload, stats=h), state, metrics


class _Divides(AbstractServer):
    r"""$x + \sum_k F_k^q \delta_k / \sum_k h_k$, of two means over the same clients."""

    understands = (SCALED,)

    def init(self, params, *, num_clients):
        return None

    def broadcast(self, params, state):
        return None

    def round(self, params, aggregate, state, *, key):
        one = jnp.ones_like(aggregate.stats)
        rate = safe_divide(one, aggregate.stats)
        return tree_add_scaled(params, rate, aggregate.payload), state


class QFedAvg(AbstractOnePass):
    r"""q-FedAvg: an objective in which the clients that are served worst count more.

    With $F_k$ the client's mean loss over all its examples, q-FFL minimises

    $$\sum_k \frac{p_k}{q + 1} F_k^{q + 1}(x).$$

    A client runs local SGD at rate $\eta = 1 / L$ from the server's $x$ to $\theta_k$;
    with its loss at $x$ it sends

    $$\Delta_k = F_k^q L (x - \theta_k), \qquad h_k = q F_k^{q - 1} \lVert L (x -
    \theta_k) \rVert^2 + L F_k^q,$$

    and the server sets $x \leftarrow x - \sum_k \Delta_k / \sum_k h_k$. (Here both are
    divided by $L$.) The rate that is best for $q = 0$, where this is FedAvg with equal
    weights, serves for any $q$: $h_k$ bounds how fast the gradient of $F_k^{q + 1}$
    changes. One step on all examples, `Epochs(1, batch_size=...)` of at least as many,
    is the paper's q-FedSGD. For $q \to \infty$ the highest loss alone counts.

    In the paper $p_k$ are the chances by which clients are drawn, as
    [`equifed.data.WeightedSampler`][] does, and the sums are plain. The loss must not
    be negative: a client whose loss is, at $q > 0$, sends NaN, which is found out.
    $F_k^q$ must be in the range of the params' dtype: scale the loss, which changes no
    optimum.

    **Arguments:**

    - `loss`, `batching`: as in [`equifed.FedAvg`][].
    - `learning_rate`: $\eta > 0$, of the clients' plain SGD.
    - `q`: $q \ge 0$; the paper tries 0.001 to 15.
    - `aggregator`: of the $\Delta_k$, with the $h_k$ as their `stats`;
        [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [Fair Resource Allocation in Federated
        Learning](https://arxiv.org/abs/1905.10497), Algorithm 2

        ```bibtex
        @inproceedings{li2020fair,
            title={{F}air {R}esource {A}llocation in {F}ederated {L}earning},
            author={Li, Tian and Sanjabi, Maziar and Beirami, Ahmad and Smith,
                    Virginia},
            booktitle={ICLR},
            year={2020},
        }
        ```
    """

    client: _SendsPowers
    aggregator: AbstractAggregator
    server: _Divides

    @checked()
    def __init__(
        self,
        loss: Loss,
        learning_rate: ArrayLike,
        batching: AbstractBatching,
        *,
        q: ArrayLike,
        aggregator: AbstractAggregator | None = None,
    ):
        rate = as_number("learning_rate", learning_rate, least=0, strict=True)
        local = LocalSGD(loss, optax.sgd(rate), batching)
        self.client = _SendsPowers(local, rate, as_number("q", q, least=0))
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.server = _Divides()
