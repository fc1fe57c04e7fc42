"""A server that counts rounds, for algorithms that begin with FedAvg."""

import functools

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .._check import check_count, check_kind
from .._server import AbstractServer


POSTERIOR = "what samples make (`PosteriorClient`, `BurnInServer`)"


class BurnIn(eqx.Module):
    """What goes down to the clients: whether the burn-in rounds are over."""

    over: Bool[Array, ""]


class BurnInState(eqx.Module):
    """The inner server's state, and the number of rounds so far."""

    server: PyTree
    round: Int[Array, ""]


class BurnInServer(AbstractServer):
    """Wraps a server: broadcasts whether `start_round` rounds are over.

    A round that was rejected does not count.
    """

    understands = (POSTERIOR,)
    server: AbstractServer
    start_round: int = eqx.field(
        converter=functools.partial(check_count, "start_round", least=0)
    )

    def __check_init__(self):
        check_kind("server", self.server, AbstractServer)

    def init(self, params, *, num_clients):
        server = self.server.init(params, num_clients=num_clients)
        return BurnInState(server, jnp.zeros((), jnp.int32))

    def broadcast(self, params, state):
        if self.server.broadcast(params, state.server) is not None:
            raise TypeError(
                "`BurnInServer` broadcasts whether the burn-in is over, and nothing "
                f"else: `{type(self.server).__name__}` has more to say. Wrap an "
                "`OptaxServer`."
            )
        return BurnIn(state.round >= self.start_round)

    def round(self, params, aggregate, state, *, key):
        params, server = self.server.round(params, aggregate, state.server, key=key)
        return params, BurnInState(server, state.round + 1)
