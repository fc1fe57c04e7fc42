"""Clients that keep some of the model's leaves for themselves.

Any client that sends a change of the params can be one: it is given all that is
trained, its own leaves in place of the blanks, and of its change only what is shared
goes up. The rest is added to what it keeps.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._tree import split_params, tree_add, tree_there
from .._types import ClientState, Params
from .._wire import Broadcast, CHANGE, check_carried, got_statistics, Message
from .base import AbstractClient
from .wrapper import AbstractWrapper


class Kept(eqx.Module):
    """What a client keeps if some of the model's leaves are its own."""

    own: ClientState
    """What its part of the algorithm keeps anyway."""
    personal: Params
    """Its own leaves, of states as well, `None` elsewhere."""


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
        own, _ = split_params(self.personal)
        return Kept(self.client.init(eqx.combine(params, own)), self.personal)

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        personal, statistics = split_params(state.personal)
        trained = eqx.combine(broadcast.params, personal)
        whole = dataclasses.replace(with_own(broadcast, statistics), params=trained)
        message, own, metrics = self.client.round(whole, data, state.own, key=key)
        if whole.statistics is not None:
            check_carried(self.client, message.statistics, whole.statistics)
        kept, payload = eqx.partition(message.payload, tree_there(personal))
        personal = tree_add(personal, kept)
        message = dataclasses.replace(message, payload=payload)
        message, statistics = without_own(message, broadcast, statistics)
        return message, Kept(own, eqx.combine(personal, statistics)), metrics


def with_own(broadcast: Broadcast, statistics: PyTree) -> Broadcast:
    """The broadcast with a client's own statistics in place of those that it has."""
    if not jtu.tree_leaves(statistics):
        return broadcast
    carried = statistics
    if broadcast.statistics is not None:
        carried = eqx.combine(statistics, broadcast.statistics)
    rest = eqx.combine(statistics, broadcast.rest)
    return dataclasses.replace(broadcast, rest=rest, statistics=carried)


def without_own(
    message: Message, broadcast: Broadcast, statistics: PyTree
) -> tuple[Message, PyTree]:
    """The message without a client's own statistics, and these."""
    if not jtu.tree_leaves(statistics):
        return message, statistics
    kept, sent = eqx.partition(message.statistics, tree_there(statistics))
    sent = None if broadcast.statistics is None else sent
    message = dataclasses.replace(message, statistics=sent)
    return message, got_statistics(kept, statistics)


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
