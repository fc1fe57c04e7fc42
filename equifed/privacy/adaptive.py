"""Clipping at a quantile of the norms, which is learned with privacy."""

import equinox as eqx
import jax.core
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._check import number
from .._metrics import Sum
from .._tree import tree_norm
from .clipping import AbstractClipping, scaled_to


class AdaptiveClip(AbstractClipping):
    r"""Clips at a norm $C$ that follows a quantile of the messages' norms (Andrew et
    al., 2021, arXiv 1905.03871).

    Each client sends as well whether its norm is at most $C$, and from the noised
    fraction $\tilde b$ of those for which it is,

    $$C \leftarrow C \exp(-\eta (\tilde b - \gamma)).$$

    The indicator counts from 1/2, so that a client changes its sum by 1/2 at most:
    $\tilde b = 1/2 + (\sum_i (b_i - 1/2) + \sigma_b \zeta) / m$. To pay for it from the
    same budget, the noise multiplier of the messages is $(z^{-2} - (2
    \sigma_b)^{-2})^{-1/2}$ instead of the mechanism's $z$.

    Rounds report `clip_norm`, the $C$ that they clipped at.

    **Arguments:**

    - `initial_norm`: the first $C$; the quantile is found from far away, too.
    - `indicator_stddev`: the $\sigma_b$: more than half of the noise multiplier. The
        paper takes a twentieth of the expected clients.
    - `quantile`: the $\gamma$, between 0 and 1.
    - `learning_rate`: the $\eta$.
    """

    initial_norm: Float[Array, ""] = eqx.field(
        converter=number("initial_norm", least=0, strict=True)
    )
    indicator_stddev: Float[Array, ""] = eqx.field(
        converter=number("indicator_stddev", least=0), kw_only=True
    )
    quantile: Float[Array, ""] = eqx.field(
        converter=number("quantile", least=0, most=1), default=0.5, kw_only=True
    )
    learning_rate: Float[Array, ""] = eqx.field(
        converter=number("learning_rate", least=0, strict=True),
        default=0.2,
        kw_only=True,
    )

    @property
    def is_fixed(self):
        return False

    @property
    def reports(self):
        return ("clip_norm",)

    def init(self, payload):
        # Not the array of a field, which may not be donated with the state.
        return jnp.array(self.initial_norm, copy=True)

    def bound(self, state):
        return state

    def clip(self, payload, state):
        within = tree_norm(payload) <= state
        half = jnp.asarray(0.5, state.dtype)
        return scaled_to(payload, state), jnp.where(within, half, -half)

    def share(self, noise_multiplier):
        both = noise_multiplier, self.indicator_stddev
        if not any(isinstance(x, jax.core.Tracer) for x in both):
            multiplier, stddev = map(float, both)
            if 0 < multiplier >= 2 * stddev:
                raise ValueError(
                    "`indicator_stddev` must be more than half of the noise multiplier "
                    f"{multiplier:g}, got {stddev:g}: the indicator alone would spend "
                    "more than the budget. Give a twentieth of the expected clients, "
                    "and expect more clients."
                )
        none = noise_multiplier == 0
        part = noise_multiplier / jnp.where(none, 1, 2 * self.indicator_stddev)
        return noise_multiplier / jnp.sqrt(1 - part**2)

    def update(self, state, summed, expected_clients, *, key):
        noise = self.indicator_stddev * jr.normal(key, (), summed.dtype)
        within = 0.5 + (summed + noise) / expected_clients
        step = self.learning_rate * (within - self.quantile)
        return state * jnp.exp(-step), {"clip_norm": Sum(state)}
