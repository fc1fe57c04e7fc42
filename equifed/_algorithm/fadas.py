"""FADAS."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import as_number, checked, number
from .._client import LocalSGD
from .._optim import OptimLike
from .._server import AbstractServer
from .._tree import tree_add, tree_cast_like, tree_wide, tree_zeros_like
from .._types import Loss, Params
from .._wire import CHANGE
from ..data import AbstractBatching
from .asynchronous import AbstractAsynchronous
from .one_pass import AbstractOnePass, Algorithm
from .staleness import AbstractStaleness, ConstantStaleness


class _Moments(eqx.Module):
    """The first moment, the second, and the greatest that the second has been."""

    m: Params
    v: Params
    top: Params


class _AMSGrad(AbstractServer):
    """AMSGrad without bias correction, along the mean change."""

    understands = (CHANGE,)
    learning_rate: Float[Array, ""] = eqx.field(
        converter=number("server_learning_rate", least=0)
    )
    b1: Float[Array, ""] = eqx.field(converter=number("b1", least=0, below=1))
    b2: Float[Array, ""] = eqx.field(converter=number("b2", least=0, below=1))
    epsilon: Float[Array, ""] = eqx.field(
        converter=number("epsilon", least=0, strict=True)
    )

    def init(self, params, *, num_clients):
        return _Moments(*(tree_zeros_like(tree_wide(params)) for _ in range(3)))

    def broadcast(self, params, state):
        return None

    def round(self, params, aggregate, state, *, key):
        change = tree_cast_like(aggregate.payload, state.m)
        b1, b2 = self.b1, self.b2
        m = jtu.tree_map(lambda m, d: b1 * m + (1 - b1) * d, state.m, change)
        v = jtu.tree_map(lambda v, d: b2 * v + (1 - b2) * d * d, state.v, change)
        top = jtu.tree_map(jnp.maximum, state.top, v)

        def step(m: Array, top: Array) -> Array:
            return self.learning_rate * m / (jnp.sqrt(top) + self.epsilon)

        params = tree_add(params, jtu.tree_map(step, m, top))
        return params, tree_cast_like(_Moments(m, v, top), state)


class FADAS(AbstractAsynchronous):
    r"""Federated adaptive asynchronous optimisation: AMSGrad at the server, whose rate
    falls with the delay.

    With the mean change $\Delta_t = \frac1M \sum_i (\theta_i - x_{t - \tau_i})$ of a
    buffer of $M$ messages,

    $$m \leftarrow \beta_1 m + (1 - \beta_1) \Delta_t, \quad
    v \leftarrow \beta_2 v + (1 - \beta_2) \Delta_t^2, \quad
    \hat v \leftarrow \max(\hat v, v), \quad
    x_{t+1} = x_t + \eta_t \frac{m}{\sqrt{\hat v} + \epsilon},$$

    with, by the buffer's greatest staleness $\tau_t = \max_i \tau_i$,

    $$\eta_t = \eta \text{ if } \tau_t \le \tau_c, \text{ else } \min(\eta, 1 /
    \tau_t).$$

    $m$, $v$ and $\hat v$ are 0 at first. See [`equifed.Asynchronous`][] for messages
    that are too stale, and for what is reported.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][]. The paper's
        clients run plain SGD.
    - `max_staleness`: how many old models are kept.
    - `server_learning_rate`: $\eta$, the server's learning rate.
    - `b1`, `b2`: $\beta_1$ and $\beta_2$, how slowly the averages of the changes and of
        their squares follow.
    - `epsilon`: $\epsilon > 0$, what is added to the root.
    - `threshold`: $\tau_c$. If not given, $\eta_t = \eta$: the paper's FADAS without
        its delay-adaptive rate.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [FADAS: Towards Federated Adaptive Asynchronous
        Optimization](https://arxiv.org/abs/2407.18365), Algorithm 1

        ```bibtex
        @inproceedings{wang2024fadas,
            title={{FADAS}: {T}owards {F}ederated {A}daptive {A}synchronous
                   {O}ptimization},
            author={Wang, Yujia and Wang, Shiqiang and Lu, Songtao and Chen, Jinghui},
            booktitle={ICML},
            year={2024},
        }
        ```
    """

    algorithm: AbstractOnePass
    max_staleness: int
    weight: AbstractStaleness
    threshold: Float[Array, ""] | None
    change_from = "old"

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        max_staleness: int,
        server_learning_rate: ArrayLike,
        b1: ArrayLike = 0.9,
        b2: ArrayLike = 0.99,
        epsilon: ArrayLike = 1e-8,
        threshold: ArrayLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.algorithm = Algorithm(
            LocalSGD(loss, client_optim, batching),
            UniformMean() if aggregator is None else aggregator,
            _AMSGrad(server_learning_rate, b1, b2, epsilon),
        )
        self.max_staleness = max_staleness
        self.weight = ConstantStaleness()
        if threshold is not None:
            threshold = as_number("threshold", threshold, least=0)
        self.threshold = threshold

    def in_round(self, most):
        if self.threshold is None:
            return self.algorithm
        server = self.algorithm.server
        assert isinstance(server, _AMSGrad)
        rate = server.learning_rate
        delay = jnp.maximum(most, 1).astype(rate.dtype)
        late = most.astype(rate.dtype) > self.threshold.astype(rate.dtype)
        rate = jnp.where(late, jnp.minimum(rate, 1 / delay), rate)
        server = dataclasses.replace(server, learning_rate=rate)
        return eqx.tree_at(lambda a: a.server, self.algorithm, server)
