"""Clients that keep some of the model's leaves for themselves.

Any client that sends a change of the params can be one: it is given all that is
trained, its own leaves in place of the blanks, and of its change only what is shared
goes up. The rest is added to what it keeps.
"""

from typing import Any

import equinox as eqx
import jax.tree_util as jtu

from .._tree import tree_add, tree_there
from .._types import ClientState, Params
from .._wire import Broadcast, CHANGE, Message
from .base import AbstractClient
from .wrapper import AbstractWrapper


class Kept(eqx.Module):
    """What a client keeps if some of the model's leaves are its own."""

    own: ClientState
    """What its part of the algorithm keeps anyway."""
    personal: Params
    """Its own leaves, `None` elsewhere."""


class AbstractKeeping(AbstractClient):
    """A client that knows which leaves are personal. Its state is, or holds, a
    [`equifed.Kept`][]."""

    personal: eqx.AbstractVar[Params]
    """What every client begins with, which `init` reads; else `None`."""


class Keeping(AbstractWrapper, AbstractKeeping):
    """A client that keeps its personal leaves, and sends the change of the others."""

    client: AbstractClient
    personal: Params

    def __init__(self, client: AbstractClient, personal: Params = None):
        self.client = client
        self.personal = personal

    @property
    def sends(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.sends

    def init(self, params):
        own = self.client.init(eqx.combine(params, self.personal))
        return Kept(own, self.personal)

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        trained = eqx.combine(broadcast.params, state.personal)
        whole = Broadcast(trained, broadcast.rest, broadcast.shared)
        message, own, metrics = self.client.round(whole, data, state.own, key=key)
        kept, sent = eqx.partition(message.payload, tree_there(state.personal))
        personal = tree_add(state.personal, kept)
        sent = Message(sent, message.weight, message.stats)
        return sent, Kept(own, personal), metrics


def keeping(client: AbstractClient, personal: Params = None) -> AbstractClient:
    """The client, keeping what is personal. A wrapper that changes messages goes around
    it, so that what stays is not changed.

    Without `personal` it is the client of a round, whose state says what is its own.
    """
    if isinstance(client, AbstractKeeping):
        return eqx.tree_at(
            lambda c: c.personal, client, personal, is_leaf=lambda x: x is None
        )
    if isinstance(client, AbstractWrapper):
        inner = keeping(client.client, personal)
        return eqx.tree_at(lambda c: c.client, client, inner)
    return Keeping(client, personal)


def kept_in(states: ClientState) -> Kept | None:
    """What is personal in the states of clients, wherever wrappers have put it."""
    leaves = jtu.tree_leaves(states, is_leaf=_is_kept)
    return next((x for x in leaves if _is_kept(x)), None)


def _is_kept(x: Any) -> bool:
    return isinstance(x, Kept)


def can_keep(client: AbstractClient, params: Params) -> bool:
    """Whether what it sends is the change of its params, so that a part of that can
    stay."""
    alike = jtu.tree_structure(client.payload(params)) == jtu.tree_structure(params)
    return CHANGE in client.sends and alike
