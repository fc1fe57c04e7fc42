"""A client that sends what an auditor can find again."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from .._client import AbstractClient, AbstractWrapper
from .._tree import tree_cast_like, tree_norm, tree_scale, tree_where, tree_zeros_like
from .._types import ClientState, Params
from .._wire import AbstractPayload
from .._words import shown
from .noise import normal_like


# How many numbers a model needs for each canary. To one of the k that take part the
# others are noise of a multiplier of sqrt(k / d): about sqrt(1 / 20) at most.
NUMBERS_EACH = 10


class CanaryState(eqx.Module):
    """What a client keeps in an audit: the proof that its canaries were there."""

    client: ClientState
    """What the client keeps otherwise."""
    rounds: Int[Array, ""]
    """In how many rounds it sent the direction of a canary."""


class CanaryClient(AbstractWrapper):
    """A client that in the slots of canaries sends a random direction instead of what
    it learnt, if its canary is a part of the training, and nothing if it is not.

    [`equifed.privacy.Audit`][] makes it.

    **Arguments:**

    - `client`: what the others do.
    - `key`: of the directions.
    - `norm`: of a canary's message, well above what it is clipped to.
    - `included`: which of the canaries are a part of the training. A loader's `info`
        says which canary a client is, or -1.
    """

    client: AbstractClient
    key: PRNGKeyArray
    norm: Float[Array, ""]
    included: Bool[Array, " canaries"]

    def __init__(
        self,
        client: AbstractClient,
        key: PRNGKeyArray,
        norm: Float[Array, ""],
        included: Bool[Array, " canaries"],
    ):
        self.client, self.key = client, key
        self.norm, self.included = norm, included

    @property
    def sends(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.sends

    def init(self, params):
        _delta(self.client.payload(params))
        count = self.included.size
        size = sum(x.size for x in jtu.tree_leaves(params))
        if count * NUMBERS_EACH > size:
            raise ValueError(
                f"In a model of {size} numbers each of {count} canaries hides behind "
                "the others as behind noise, so that their scores would say little. "
                f"Make the audit with at most {size // NUMBERS_EACH} canaries, or "
                f"train at least {count * NUMBERS_EACH} numbers."
            )
        return CanaryState(self.client.init(params), jnp.zeros((), jnp.int32))

    def payload(self, params):
        return self.client.payload(params)

    def round(self, broadcast, data, state, *, key):
        if not isinstance(state, CanaryState):
            raise ValueError(
                "What clients keep tells an audit that canaries took part, but the "
                "clients of this algorithm keep nothing. Audit one that begins with "
                "`clients=self.client.init(params)`, such as `FedAvg`."
            )
        message, own, metrics = self.client.round(
            broadcast, data, state.client, key=key
        )
        number: Any = data.info
        if not isinstance(number, jax.Array):
            raise ValueError(
                "An algorithm of an audit is told by the cohort's `info` who is a "
                f"canary, got {shown(number)}. Train it with `audit.loader(...)`."
            )
        is_canary, number = number >= 0, jnp.maximum(number, 0)
        delta = _delta(message.payload)
        direction = direction_of(self.key, number, jtu.tree_leaves(delta))
        direction = jtu.tree_unflatten(jtu.tree_structure(delta), direction)
        sent = tree_cast_like(tree_scale(self.norm, direction), delta)
        if delta is not message.payload:  # Beside it a canary has nothing to say.
            nothing = tree_zeros_like(message.payload)
            sent = eqx.tree_at(_delta, nothing, sent)
        weight = self.included[number].astype(message.weight.dtype)
        message = dataclasses.replace(
            message,
            payload=tree_where(is_canary, sent, message.payload),
            weight=jnp.where(is_canary, weight, message.weight),
        )
        # What it measures on the example that it borrows says nothing of anyone.
        metrics = jtu.tree_map(
            lambda x: jnp.where(is_canary, jnp.zeros_like(x), x), metrics
        )
        sends = (is_canary & self.included[number]).astype(state.rounds.dtype)
        return message, CanaryState(own, state.rounds + sends), metrics


def _delta(payload: PyTree) -> Params:
    """The change of the params in what a client sends."""
    if not isinstance(payload, AbstractPayload):
        return payload
    delta = getattr(payload, "delta", None)
    if delta is None:
        raise ValueError(
            "A canary is a change of the params, and there is none in what the clients "
            f"of this algorithm send, {shown(payload)}. Audit one that sends a change, "
            "such as `FedAvg`; a payload of your own calls it `delta`."
        )
    return delta


def direction_of(key: PRNGKeyArray, number: Array, like: PyTree) -> PyTree[Array]:
    """A canary's random direction, of norm 1."""
    drawn = normal_like(like, jr.fold_in(key, number))
    return tree_scale(1 / tree_norm(drawn), drawn)
