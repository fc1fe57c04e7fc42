r"""The adaptive server optimisers of Reddi et al. (2021, arXiv 2003.00295),
Algorithm 2.

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

from .._check import number
from .._types import Params


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
    r"""FedAdagrad's server: $v_t = v_{t-1} + \Delta_t^2$."""
    return Adaptive("adagrad", learning_rate, b1, 0.0, tau).transformation()


def server_adam(
    learning_rate: ArrayLike,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    tau: ArrayLike = 1e-3,
) -> optax.GradientTransformation:
    r"""FedAdam's server: $v_t = \beta_2 v_{t-1} + (1 - \beta_2) \Delta_t^2$."""
    return Adaptive("adam", learning_rate, b1, b2, tau).transformation()


def server_yogi(
    learning_rate: ArrayLike,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    tau: ArrayLike = 1e-3,
) -> optax.GradientTransformation:
    r"""FedYogi's server:
    $v_t = v_{t-1} - (1 - \beta_2) \Delta_t^2 \,\mathrm{sign}(v_{t-1} - \Delta_t^2)$.
    """
    return Adaptive("yogi", learning_rate, b1, b2, tau).transformation()
