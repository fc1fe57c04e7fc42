"""FedDyn's server."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._check import number
from .._tree import tree_add, tree_add_scaled, tree_zeros_like
from .._types import Params
from .base import AbstractServer


class DynState(eqx.Module):
    """The server's h, and the size of the population."""

    h: Params
    num_clients: Float[Array, ""]


class DynServer(AbstractServer):
    r"""$h \leftarrow h - \alpha \frac{|S|}{N} \overline{\Delta}$, then
    $x \leftarrow x + \overline{\Delta} - h / \alpha$."""

    alpha: Float[Array, ""] = eqx.field(converter=number("alpha", least=0, strict=True))

    def init(self, params, *, num_clients):
        number = jnp.asarray(num_clients, jnp.result_type(float))
        return DynState(tree_zeros_like(params), number)

    def broadcast(self, params, state):
        return None

    def round(self, params, aggregate, state, *, key):
        share = aggregate.count / state.num_clients
        h = tree_add_scaled(state.h, -self.alpha * share, aggregate.payload)
        params = tree_add(params, aggregate.payload)
        params = tree_add_scaled(params, -1 / self.alpha, h)
        return params, DynState(h, state.num_clients)
