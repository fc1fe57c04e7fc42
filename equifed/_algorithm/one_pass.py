"""Algorithms that make one pass: a client, an aggregator and a server, bound.

What makes such an algorithm is which three parts it binds, so a new one is a class
whose only method is an `__init__` that picks them; or no class at all:
`Algorithm(client=..., aggregator=..., server=...)`.
"""

import dataclasses

import equinox as eqx
import jax.random as jr

from .._aggregator import AbstractAggregator
from .._check import check_kind, checked
from .._client import AbstractClient
from .._client.keeping import can_keep, keeping, kept_in
from .._client.reach import only, reached
from .._contract import check_server
from .._noise import reseed_noise
from .._roles import is_empty
from .._round import Beginning
from .._server import AbstractServer
from .._types import ClientState, Params
from .._wire import Broadcast
from ..data import AbstractBatching
from .base import AbstractAlgorithm, NOT_KEPT
from .of_client import _AbstractOfClient


class AbstractOnePass(_AbstractOfClient):
    """A client, an aggregator and a server, bound."""

    client: eqx.AbstractVar[AbstractClient]
    aggregator: eqx.AbstractVar[AbstractAggregator]
    server: eqx.AbstractVar[AbstractServer]

    def __check_init__(self):
        check_kind("client", self.client, AbstractClient)
        check_kind("aggregator", self.aggregator, AbstractAggregator)
        check_kind("server", self.server, AbstractServer)
        check_kind("batching", self.batching, AbstractBatching)
        _check_pair(self.client, self.server)

    @property
    def carries_state(self) -> bool:
        # Models of the clients' own have statistics of their own, which nobody keeps.
        kind, plain = type(self), AbstractAlgorithm.own_model
        as_here = kind.step is AbstractOnePass.step and kind.own_model is plain
        return as_here and self.client.carries_state

    def begin(self, params, *, num_clients, key):
        return Beginning(
            params,
            self.server.init(params, num_clients=num_clients),
            self.aggregator.init(self.client.payload(params)),
            self.client.init(params),
        )

    def keep(self, params, personal, begun):
        return keep_in_pass(self, type(self).__name__, params, personal, begun)

    def step(self, state, clients, *, key):
        client_key, server_key, noise_key = jr.split(key, 3)
        # Noise that the server's optimiser draws follows from the round's key.
        server, at_server = reseed_noise((self.server, state.server), noise_key)
        params = state.params
        shared = server.broadcast(params, at_server)
        broadcast = Broadcast(params, state.others, shared, state.statistics)
        has_personal = kept_in(state.clients) is not None
        out = clients(
            keeping(self.client) if has_personal else self.client,
            self.aggregator,
            broadcast,
            state.clients,
            state.aggregator,
            key=client_key,
        )
        moved = server.round(params, out.aggregate, at_server, key=server_key)
        new_params, at_server = check_server(server, moved, params, at_server)
        if self.client.follows_loss:
            # The server does not move what the clients do not train either.
            where = reached(self.loss, broadcast, clients.example)
            new_params = only(where, new_params, params)
        state = dataclasses.replace(
            state,
            params=new_params,
            server=at_server,
            aggregator=out.aggregator,
            clients=out.clients,
            statistics=out.statistics,
        )
        return state, out.metrics, out.aggregate.accept

    def model(self, state):
        return state.model


def keep_in_pass(
    algorithm: AbstractOnePass,
    name: str,
    params: Params,
    personal: Params,
    begun: Beginning,
) -> ClientState:
    """`AbstractOnePass.keep`, under the name of what has this algorithm in it."""
    client, server = algorithm.client, algorithm.server
    if is_empty(params):
        raise ValueError(
            f"`{name}` has nothing to send: all that is trained is personal, and "
            "nothing is shared. Share a part, or take `LocalOnly`."
        )
    if not can_keep(client, params):
        raise ValueError(NOT_KEPT.format(name, f"is sent {_sent(client)}"))
    if type(algorithm).own_model is not AbstractAlgorithm.own_model:
        what = "gives each client a whole model of its own"
        raise ValueError(NOT_KEPT.format(name, what))
    shared = eqx.filter_eval_shape(server.broadcast, params, begun.server)
    if shared is not None:
        what = "sends its clients something of each parameter beside the model"
        raise ValueError(NOT_KEPT.format(name, what))
    return keeping(client, personal).init(params)


class Algorithm(AbstractOnePass):
    """Any client, aggregator and server."""

    client: AbstractClient
    aggregator: AbstractAggregator
    server: AbstractServer

    @checked()
    def __init__(
        self,
        client: AbstractClient,
        aggregator: AbstractAggregator,
        server: AbstractServer,
    ):
        self.client = client
        self.aggregator = aggregator
        self.server = server


def _check_pair(client: AbstractClient, server: AbstractServer) -> None:
    """Refuses a server that would read a client's messages as something else: what it
    computes is then described by no paper."""
    sent, read = client.sends, server.understands
    if sent and read and not set(sent) & set(read):
        raise TypeError(
            f"`{type(server).__name__}` does not understand the messages of "
            f"{_name(client)}: it takes {' or '.join(read)}, and is sent "
            f"{' or '.join(sent)}."
        )


def _sent(client: AbstractClient) -> str:
    unknown = (
        f"what {_name(client)} makes, which does not say that it is a change of the "
        "params (`sends = equifed.OptaxServer.understands`)"
    )
    return " or ".join(client.sends) or unknown


def _name(client: AbstractClient) -> str:
    name = f"`{type(client).__name__}`"
    correction = getattr(client, "correction", None)
    return name if correction is None else f"{name} with `{type(correction).__name__}`"
