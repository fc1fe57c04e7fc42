"""A client that sends what an auditor can find again."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .._client import AbstractClient, AbstractWrapper
from .._tree import tree_cast_like, tree_norm, tree_scale, tree_where
from .._words import shown
from .noise import normal_like


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
        return self.client.init(params)

    def payload(self, params):
        return self.client.payload(params)

    def round(self, broadcast, data, state, *, key):
        message, state, metrics = self.client.round(broadcast, data, state, key=key)
        number: Any = data.info
        if not isinstance(number, jax.Array):
            raise ValueError(
                "An algorithm of an audit is told by the cohort's `info` who is a "
                f"canary, got {shown(number)}. Train it with `audit.loader(...)`."
            )
        is_canary, number = number >= 0, jnp.maximum(number, 0)
        direction = direction_of(self.key, number, message.payload)
        sent = tree_cast_like(tree_scale(self.norm, direction), message.payload)
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
        return message, state, metrics


def direction_of(key: PRNGKeyArray, number: Array, like: PyTree) -> PyTree[Array]:
    """A canary's random direction, of norm 1."""
    drawn = normal_like(like, jr.fold_in(key, number))
    return tree_scale(1 / tree_norm(drawn), drawn)
