"""SCAFFOLD's server: any server, and the control variate beside it."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._check import check_kind
from .._client import Control
from .._tree import tree_add_scaled, tree_zeros_like
from .._types import Params
from .base import AbstractServer


_REMEDY = "`ScaffoldServer` goes with clients that correct by a `ControlVariate`."


class ScaffoldState(eqx.Module):
    """The inner server's state, and SCAFFOLD's control variate."""

    server: PyTree
    control: Params
    num_clients: Float[Array, ""]


class ScaffoldServer(AbstractServer):
    r"""Hands the change of the params to another server, and keeps the mean of all
    clients' control variates: $c \leftarrow c + \frac{|S|}{N} \overline{\Delta c}$."""

    server: AbstractServer

    def __check_init__(self):
        check_kind("server", self.server, AbstractServer)

    def init(self, params, *, num_clients):
        return ScaffoldState(
            self.server.init(params, num_clients=num_clients),
            tree_zeros_like(params),
            jnp.asarray(num_clients, jnp.result_type(float)),
        )

    def broadcast(self, params, state):
        return state.control

    def round(self, params, aggregate, state, *, key):
        check_kind("payload", aggregate.payload, Control, _REMEDY)
        control = aggregate.payload.control
        aggregate = eqx.tree_at(lambda a: a.payload, aggregate, aggregate.payload.delta)
        params, server = self.server.round(params, aggregate, state.server, key=key)
        share = aggregate.count / state.num_clients
        control = tree_add_scaled(state.control, share, control)
        return params, ScaffoldState(server, control, state.num_clients)
