"""The server's last versions, kept in a ring, and the client that trains from one.

A version of the server is the number of rounds before it. A round that is rejected is a
version too, whose model is that of the version before. So only new models are kept,
each with the first version that it was the model of, and a version's model is the
newest that is not newer than it: however many rounds are rejected, the clock of who
makes the cohorts and the models here cannot get out of step.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Int, PyTree

from .._client import AbstractClient, AbstractWrapper
from .._round.state import repeat
from .._tree import tree_add, tree_row, tree_scale, tree_sub, tree_where
from .._types import Params
from .._wire import check_additive
from .._words import shown
from .staleness import AbstractStaleness, ConstantStaleness


NO_VERSION = -1


class OldModels(eqx.Module):
    """The models before the one that there is."""

    models: PyTree[Array]
    """The params, stacked."""
    versions: Int[Array, " models"]
    """The first version that each was the model of; -1 where there is none yet."""
    since: Int[Array, ""]
    """The first version that the present model is the model of."""

    @classmethod
    def none(cls, params: Params, size: int) -> "OldModels":
        models = repeat(params, size)
        versions = jnp.full(size, NO_VERSION, jnp.int32)
        return cls(models, versions, jnp.zeros((), jnp.int32))

    def at(self, version: Int[Array, ""], present: Params) -> Params:
        """The model of a version of which something is known."""
        fits = (self.versions >= 0) & (self.versions <= version)
        place = jnp.argmax(jnp.where(fits, self.versions, NO_VERSION))
        return tree_where(version >= self.since, present, tree_row(self.models, place))

    def after(self, present: Params, version: Int[Array, ""]) -> "OldModels":
        """With the present model among the old ones, in place of the oldest, because
        from `version` on there is another."""
        place = jnp.argmin(self.versions)
        models = jtu.tree_map(lambda x, new: x.at[place].set(new), self.models, present)
        versions = self.versions.at[place].set(self.since)
        return OldModels(models, versions, version)


def staleness_in(info: PyTree, name: str) -> Int[Array, "..."]:
    """What a cohort says of its messages' staleness.

    **Raises:**

    `ValueError` if it says nothing of it, or anything but whole numbers.
    """
    named = isinstance(info, Mapping)
    found = info.get("staleness") if named else None
    if found is None:
        got = f"{', '.join(map(repr, info))} alone" if named else shown(info)
        raise ValueError(
            f"`{name}` trains clients from old models, and the cohort does not say how "
            f"old: its `info` has no 'staleness', got {got}. Make the "
            "`Loader` with `clock=equifed.clock.AsynchronousClock(...)`, or with "
            "`info=lambda round, clients: {'staleness': ...}`."
        )
    if not jnp.issubdtype(found.dtype, jnp.integer):
        raise ValueError(
            "`info['staleness']` must be integers, numbers of the server's versions, "
            f"got {found.dtype}."
        )
    return found


class FromOldModel(AbstractWrapper):
    r"""A client that is sent the model of an older version, $x_{t - \tau}$.

    What it sends is multiplied with $s(\tau)$: the change from the model that it began
    from, or from the present one.
    """

    client: AbstractClient
    old: OldModels
    weight: AbstractStaleness
    change_from: Literal["old", "present"]

    def __init__(
        self,
        client: AbstractClient,
        old: OldModels,
        weight: AbstractStaleness,
        change_from: Literal["old", "present"],
    ):
        self.client = client
        self.old = old
        self.weight = weight
        self.change_from = change_from

    def init(self, params):
        return self.client.init(params)

    def payload(self, params):
        return self.client.payload(params)

    def round(self, broadcast, data, state, *, key):
        staleness, present = data.info["staleness"], broadcast.params
        began = self.old.at(data.round - staleness, present)
        broadcast = eqx.tree_at(lambda b: b.params, broadcast, began)
        message, state, metrics = self.client.round(broadcast, data, state, key=key)
        payload = message.payload
        if self.change_from == "present":
            payload = tree_add(payload, tree_sub(began, present))
        if not isinstance(self.weight, ConstantStaleness):
            check_additive(payload, self.weight)
            payload = tree_scale(self.weight(staleness), payload)
        return dataclasses.replace(message, payload=payload), state, metrics
