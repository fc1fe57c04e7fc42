"""What travels: down to the clients, up from each of them, and on to the server."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PyTree

from ._tree import difference, split_params
from ._types import Model, Params


class Broadcast(eqx.Module):
    """What the server sends to every client of a pass."""

    params: Params
    """The leaves that are trained, `None` elsewhere."""
    rest: Model
    """The others: functions, sizes, and arrays that are not trained."""
    shared: PyTree = None
    """Whatever else the algorithm sends down: SCAFFOLD's control variate, say."""
    statistics: PyTree = None
    """Of `rest`, the arrays of an `equinox.nn.State` that are averaged over the clients
    and are sent for it; `None` where there are none."""

    @classmethod
    def of(cls, model: Model, shared: PyTree = None) -> "Broadcast":
        """A model, with all trained that can be: to call a client outside a round."""
        return cls(*split_params(model), shared)

    @property
    def model(self) -> Model:
        return eqx.combine(self.params, self.rest)


# What most clients send, and most servers take.
CHANGE = "a change of the params (`OptaxServer`)"


class AbstractPayload(eqx.Module):
    """A payload that says what may be done to it. One that is a change of the params is
    a tree like them, and needs none; one that has such a change beside something else
    calls it `delta`, where [`equifed.privacy.Audit`][] puts its canaries."""

    additive: eqx.AbstractClassVar[bool]
    """Whether it may be added up and scaled, number by number: a mean of several says
    the same kind of thing. The moments of a Gaussian may not."""


def check_additive(payload: PyTree, aggregator: Any) -> None:
    """For an aggregator that works number by number."""
    if isinstance(payload, AbstractPayload) and not payload.additive:
        name = type(payload).__name__
        raise TypeError(
            f"`{type(aggregator).__name__}` works on each number of a message apart, "
            f"and the numbers of a `{name}` mean something only together. Use an "
            "aggregator that is made for it, without this one."
        )


class Message(eqx.Module):
    """What a client sends back.

    The payload is what aggregators work on: they clip it, add noise to it, average
    it. `stats` holds plain numbers about it that no aggregator may distort, such as
    FedNova's number of steps; they are averaged with the same weights.
    """

    payload: PyTree[Array]
    weight: Float[Array, ""]
    """At least 0; a message of weight 0, or less, counts as absent."""
    stats: PyTree[Array] = None
    statistics: PyTree[Array] = None
    """What the broadcast's `statistics` have become (of whole numbers, their change).
    They are averaged as `stats` are."""


class Aggregate(eqx.Module):
    """What the server is given: one payload for the whole cohort."""

    payload: PyTree[Array]
    stats: PyTree[Array]
    """The messages' `stats`, averaged with the weights of the payload."""
    weight: Float[Array, ""]
    """The sum of the weights."""
    count: Float[Array, ""]
    """The number of messages whose weight was not 0."""
    accept: Bool[Array, ""]
    """Whether there is something to act on. A mean over nobody is nothing; the noise
    that privacy asks for is added whoever came."""


class WithStatistics(eqx.Module):
    """The stats of a message, and statistics that are averaged with them."""

    stats: PyTree[Array]
    statistics: PyTree[Array]


def sent_statistics(new: PyTree, old: PyTree) -> PyTree[Array]:
    """What a client's statistics have become, in numbers that can be averaged: of whole
    numbers and truth values it is their change."""

    def sent(x: Array, y: Array) -> Array:
        if jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        float_of = jnp.result_type(float)
        return x.astype(float_of) - y.astype(float_of)

    return jtu.tree_map(sent, new, old)


def got_statistics(mean: PyTree[Array], old: PyTree) -> PyTree:
    """The statistics, from what was sent, or a mean of that."""

    def got(x: Array, y: Array) -> Array:
        if jnp.issubdtype(y.dtype, jnp.inexact):
            return x.astype(y.dtype)
        if y.dtype == jnp.bool_:
            return y.astype(x.dtype) + x > jnp.asarray(0.5, x.dtype)
        return y + jnp.round(x).astype(y.dtype)

    return jtu.tree_map(got, mean, old)


def check_carried(client: Any, sent: PyTree, old: PyTree) -> None:
    """Refuses a client that says nothing of the statistics that it was sent."""
    found = difference("statistics", sent, sent_statistics(old, old))
    if found is not None:
        raise TypeError(
            f"`{type(client).__name__}` does not carry the model's `eqx.nn.State` from "
            f"step to step: in its message {found}. Train with `LocalSGD` (`FedAvg`, "
            "`FedProx` or `Scaffold`, say), or a model without such a state."
        )
