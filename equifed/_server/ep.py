"""FedEP's server: the product of a prior and every client's factor."""

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float

from .._check import check_kind, number
from .._posterior import Natural
from .._tree import tree_add, tree_cast_like, tree_scale, tree_wide
from .base import AbstractServer


class EPServer(AbstractServer):
    r"""Keeps the natural parameters $\Lambda, \eta$ of the global posterior, adds up
    the clients' changes to them, and has the mean $\eta / \Lambda$ for its model.

    **Arguments:**

    - `prior_precision`: more than 0. The prior is a Gaussian of that precision around
        the model that training begins with.
    """

    prior_precision: Float[Array, ""] = eqx.field(
        converter=number("prior_precision", least=0, strict=True)
    )

    def init(self, params, *, num_clients):
        wide = tree_wide(params)
        precision = jtu.tree_map(
            lambda x: jnp.full_like(x, self.prior_precision.astype(x.dtype)), wide
        )
        return Natural(precision, jtu.tree_map(jnp.multiply, precision, wide))

    def broadcast(self, params, state):
        return state

    def round(self, params, aggregate, state, *, key):
        check_kind("payload", aggregate.payload, Natural, "It goes with `EPClient`.")
        # Factors multiply, so their changes add up: the mean times their number.
        change = tree_scale(aggregate.count, aggregate.payload)
        state = tree_add(state, change)
        mean = jtu.tree_map(jnp.divide, state.linear, state.precision)
        return tree_cast_like(mean, params), state
