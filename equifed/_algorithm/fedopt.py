r"""FedAdagrad, FedAdam and FedYogi: their server optimisers (Reddi et al., 2021, arXiv
2003.00295, Algorithm 2), and FedAvg with each.

They are not Optax's Adagrad, Adam and Yogi. With $\Delta_t$ the aggregated change,

$$m_t = \beta_1 m_{t-1} + (1 - \beta_1) \Delta_t, \qquad
x_{t+1} = x_t + \eta \frac{m_t}{\sqrt{v_t} + \tau},$$

there is no bias correction, $v$ starts at $\tau^2$, and Adagrad has momentum too.
"""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import checked, number, within
from .._client import LocalSGD
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss, Params
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class AdaptiveState(NamedTuple):
    """The first and the second moment."""

    m: Params
    v: Params


class Adaptive(eqx.Module):
    """What the three have in common, as the two functions that Optax asks for."""

    rule: Literal["adagrad", "adam", "yogi"]
    learning_rate: Float[Array, ""] = eqx.field(
        converter=number("learning_rate", least=0)
    )
    b1: Float[Array, ""] = eqx.field(converter=number("b1", least=0, below=1))
    b2: Float[Array, ""] = eqx.field(converter=number("b2", least=0, below=1))
    tau: Float[Array, ""] = eqx.field(converter=number("tau", least=0, strict=True))

    def init(self, params: Params) -> AdaptiveState:
        m = jtu.tree_map(jnp.zeros_like, params)
        v = jtu.tree_map(lambda p: jnp.full_like(p, jnp.square(self.tau)), params)
        return AdaptiveState(m, v)

    def update(
        self, updates: Params, state: Any, params: Params | None = None
    ) -> tuple[Params, AdaptiveState]:
        # `updates` is the gradient of Optax's convention: minus the change.
        def first(m: Array, g: Array) -> Array:
            return self.b1 * m + (1 - self.b1) * -g

        def step(m: Array, v: Array) -> Array:
            return self.learning_rate * m / (jnp.sqrt(v) + self.tau)

        m = jtu.tree_map(first, state.m, updates)
        v = jtu.tree_map(lambda v, g: self.second_moment(v, g * g), state.v, updates)
        return jtu.tree_map(step, m, v), AdaptiveState(m, v)

    def second_moment(self, v: Array, square: Array) -> Array:
        if self.rule == "adagrad":
            return v + square
        if self.rule == "adam":
            return self.b2 * v + (1 - self.b2) * square
        return v - (1 - self.b2) * square * jnp.sign(v - square)

    def transformation(self) -> optax.GradientTransformation:
        return optax.GradientTransformation(self.init, self.update)


def server_adagrad(
    learning_rate: ArrayLike, *, b1: ArrayLike = 0.0, tau: ArrayLike = 1e-3
) -> optax.GradientTransformation:
    r"""FedAdagrad's server, as an Optax optimiser: $v_t = v_{t-1} + \Delta_t^2$.

    The step is $x \leftarrow x + \eta\, m_t / (\sqrt{v_t} + \tau)$ with $m_t = \beta_1
    m_{t-1} + (1 - \beta_1) \Delta_t$, of the mean change $\Delta_t$, and $v_0 = \tau^2$
    ([Reddi et al., 2021](https://arxiv.org/abs/2003.00295), Algorithm 2).

    **Arguments:**

    - `learning_rate`: $\eta \ge 0$, the server's learning rate.
    - `b1`: $\beta_1$, in $[0, 1)$.
    - `tau`: $\tau > 0$, how adaptive it is: the less, the more.
    """
    return Adaptive("adagrad", learning_rate, b1, 0.0, tau).transformation()


def server_adam(
    learning_rate: ArrayLike,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    tau: ArrayLike = 1e-3,
) -> optax.GradientTransformation:
    r"""FedAdam's server, as an Optax optimiser: $v_t = \beta_2 v_{t-1} + (1 - \beta_2)
    \Delta_t^2$.

    For the step and the other numbers see [`equifed.server_adagrad`][].

    **Arguments:**

    - `learning_rate`, `b1`, `tau`: as there.
    - `b2`: $\beta_2$, in $[0, 1)$.
    """
    return Adaptive("adam", learning_rate, b1, b2, tau).transformation()


def server_yogi(
    learning_rate: ArrayLike,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    tau: ArrayLike = 1e-3,
) -> optax.GradientTransformation:
    r"""FedYogi's server, as an Optax optimiser: $v_t = v_{t-1} - (1 - \beta_2)
    \Delta_t^2 \,\mathrm{sign}(v_{t-1} - \Delta_t^2)$.

    For the step and the other numbers see [`equifed.server_adagrad`][].

    **Arguments:**

    - `learning_rate`, `b1`, `tau`: as there.
    - `b2`: $\beta_2$, in $[0, 1)$.
    """
    return Adaptive("yogi", learning_rate, b1, b2, tau).transformation()


class FedAdagrad(AbstractOnePass):
    r"""FedAvg with Adagrad at the server.

    With $\overline\Delta$ the mean change of the clients' models, and $v_0 = \tau^2$:

    $$m \leftarrow \beta_1 m + (1 - \beta_1) \overline\Delta, \quad
    v \leftarrow v + \overline\Delta^2, \quad
    x \leftarrow x + \eta \frac{m}{\sqrt v + \tau}.$$

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `aggregator`: as in [`equifed.FedAvg`][].
    - `server_learning_rate`: $\eta$, the server's learning rate.
    - `b1`: $\beta_1$, how slowly the average of the changes follows. The paper's
        experiments use 0 here.
    - `tau`: $\tau$, the degree of adaptivity.

    ??? cite "Reference"

        [Adaptive Federated Optimization](https://arxiv.org/abs/2003.00295),
        Algorithm 2

        ```bibtex
        @inproceedings{reddi2021adaptive,
            title={{A}daptive {F}ederated {O}ptimization},
            author={Reddi, Sashank and Charles, Zachary and Zaheer, Manzil and Garrett,
                    Zachary and Rush, Keith and Kone{\v{c}}n{\'y}, Jakub and Kumar,
                    Sanjiv and McMahan, H. Brendan},
            booktitle={ICLR},
            year={2021},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        server_learning_rate: ArrayLike = 0.1,
        b1: ArrayLike = 0.0,
        tau: ArrayLike = 1e-3,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        rate = within("server_learning_rate", server_learning_rate, least=0)
        self.server = OptaxServer(server_adagrad(rate, b1=b1, tau=tau))


class FedAdam(AbstractOnePass):
    r"""FedAvg with Adam at the server, without bias correction.

    As [`equifed.FedAdagrad`][], with
    $v \leftarrow \beta_2 v + (1 - \beta_2) \overline\Delta^2$.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `aggregator`: as in [`equifed.FedAvg`][].
    - `server_learning_rate`: $\eta$, the server's learning rate.
    - `b1`, `b2`: $\beta_1$ and $\beta_2$, how slowly the averages of the changes and of
        their squares follow.
    - `tau`: $\tau$, the degree of adaptivity.

    ??? cite "Reference"

        [Adaptive Federated Optimization](https://arxiv.org/abs/2003.00295),
        Algorithm 2
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        server_learning_rate: ArrayLike = 10**-2.5,
        b1: ArrayLike = 0.9,
        b2: ArrayLike = 0.99,
        tau: ArrayLike = 1e-3,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        rate = within("server_learning_rate", server_learning_rate, least=0)
        self.server = OptaxServer(server_adam(rate, b1=b1, b2=b2, tau=tau))


class FedYogi(AbstractOnePass):
    r"""FedAvg with Yogi at the server.

    As [`equifed.FedAdagrad`][], with
    $v \leftarrow v - (1 - \beta_2) \overline\Delta^2 \,\mathrm{sign}(v -
    \overline\Delta^2)$.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `aggregator`: as in [`equifed.FedAvg`][].
    - `server_learning_rate`: $\eta$, the server's learning rate.
    - `b1`, `b2`: $\beta_1$ and $\beta_2$, how slowly the averages of the changes and of
        their squares follow.
    - `tau`: $\tau$, the degree of adaptivity.

    ??? cite "Reference"

        [Adaptive Federated Optimization](https://arxiv.org/abs/2003.00295),
        Algorithm 2
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        server_learning_rate: ArrayLike = 10**-2.5,
        b1: ArrayLike = 0.9,
        b2: ArrayLike = 0.99,
        tau: ArrayLike = 1e-3,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        rate = within("server_learning_rate", server_learning_rate, least=0)
        self.server = OptaxServer(server_yogi(rate, b1=b1, b2=b2, tau=tau))
