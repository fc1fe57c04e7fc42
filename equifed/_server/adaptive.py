r"""The adaptive server optimisers of Reddi et al. (2021, arXiv 2003.00295),
Algorithm 2.

They are not Optax's Adagrad, Adam and Yogi. With $\Delta_t$ the aggregated change,

$$m_t = \beta_1 m_{t-1} + (1 - \beta_1) \Delta_t, \qquad
x_{t+1} = x_t + \eta \frac{m_t}{\sqrt{v_t} + \tau},$$

there is no bias correction, $v$ starts at $\tau^2$, and Adagrad has momentum too.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import jax.tree_util as jtu
import optax
from jaxtyping import Array, ArrayLike

from .._types import Params


class AdaptiveState(NamedTuple):
    """The first and the second moment."""

    m: Params
    v: Params


def fedopt(
    second_moment: Callable[[Array, Array], ArrayLike],
    learning_rate: ArrayLike,
    b1: ArrayLike,
    tau: ArrayLike,
) -> optax.GradientTransformation:
    def init(params):
        m = jtu.tree_map(jnp.zeros_like, params)
        v = jtu.tree_map(lambda p: jnp.full_like(p, jnp.square(tau)), params)
        return AdaptiveState(m, v)

    def update(updates, state, params=None):
        # `updates` is the gradient of Optax's convention: minus the change.
        m = jtu.tree_map(lambda m, g: b1 * m + (1 - b1) * -g, state.m, updates)
        v = jtu.tree_map(lambda v, g: second_moment(v, g * g), state.v, updates)
        step = jtu.tree_map(lambda m, v: learning_rate * m / (jnp.sqrt(v) + tau), m, v)
        return step, AdaptiveState(m, v)

    return optax.GradientTransformation(init, update)


def server_adagrad(
    learning_rate: ArrayLike, *, b1: ArrayLike = 0.0, tau: ArrayLike = 1e-3
) -> optax.GradientTransformation:
    r"""FedAdagrad's server: $v_t = v_{t-1} + \Delta_t^2$."""
    return fedopt(lambda v, square: v + square, learning_rate, b1, tau)


def server_adam(
    learning_rate: ArrayLike,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    tau: ArrayLike = 1e-3,
) -> optax.GradientTransformation:
    r"""FedAdam's server: $v_t = \beta_2 v_{t-1} + (1 - \beta_2) \Delta_t^2$."""
    return fedopt(lambda v, square: b2 * v + (1 - b2) * square, learning_rate, b1, tau)


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
    return fedopt(
        lambda v, square: v - (1 - b2) * square * jnp.sign(v - square),
        learning_rate,
        b1,
        tau,
    )
