"""FedNova's server: any server, given the normalised change at its common length."""

import equinox as eqx
import jax.numpy as jnp

from .._check import check_kind
from .._tree import tree_scale
from .._words import shown
from .base import AbstractServer


class NovaServer(AbstractServer):
    r"""Hands $\overline{s} \cdot \overline{\Delta / s}$ to another server, where
    $\overline{s}$ is the mean of the clients' $\eta \lVert a_i \rVert_1$."""

    server: AbstractServer

    def __check_init__(self):
        check_kind("server", self.server, AbstractServer)

    def init(self, params, *, num_clients):
        return self.server.init(params, num_clients=num_clients)

    def broadcast(self, params, state):
        return self.server.broadcast(params, state)

    def round(self, params, aggregate, state, *, key):
        if jnp.shape(aggregate.stats) != ():
            raise TypeError(
                "`NovaServer` takes the length of the clients' steps from the `stats` "
                f"of their messages, got {shown(aggregate.stats)}. It goes with "
                "`Normalized`."
            )
        payload = tree_scale(aggregate.stats, aggregate.payload)
        aggregate = eqx.tree_at(lambda a: a.payload, aggregate, payload)
        return self.server.round(params, aggregate, state, key=key)
