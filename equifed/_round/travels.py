"""What travels in a pass that is run elsewhere, by name."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.extend import core as jex
from jaxtyping import PyTree

from .._cohort import Cohort
from .._types import Example
from .segments import Call


class Place:
    """Stands for an array of a tree that was taken apart."""

    def __init__(self, number: int):
        self.number = number


class PassPlan(NamedTuple):
    """What travels in a pass, and what does not."""

    call: Call
    inputs: list[Any]
    """The variables of the step that it takes."""
    new: list[Any]
    """Those that are the slots' new states."""
    down: dict[str, int]
    """The arrays that are sent to all, by name: their places among the inputs."""
    here: dict[int, int]
    """Those that a client has: their places, and those among the step's inputs."""
    states: list[int]
    """The places of the slots' states."""
    sources: list[str | None]
    """Where a client finds each of its states: `None` if it is sent."""
    up: dict[str, jax.ShapeDtypeStruct]
    """What one client says, by name: its message, encoded, and its metrics."""
    reports: list[int]
    """Which of its new states it sends, as the step computes with them."""
    index: int
    """The place of the clients' numbers."""


def without_examples(example: Example, num_slots: int, batch_size: int) -> Cohort:
    """A cohort as the server has it, of empty slots, whose examples are elsewhere."""
    examples = jtu.tree_map(lambda x: jnp.zeros((1, 1, *x.shape), x.dtype), example)
    order, none = (
        jnp.zeros(x, jnp.int32) for x in ((1, 1, batch_size), (1, num_slots))
    )
    return Cohort(examples, order, none, none, none, none, none)


def said_by_one(call: Call, work: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of what one client says: of messages that are gathered, without the
    axis of all of them."""
    (encoded, metrics), _ = jtu.tree_unflatten(call.structure, call.shapes)
    if work.aggregator.gathers:
        encoded = jtu.tree_map(lambda x: one_of(x, 1), encoded)
    said = jtu.tree_leaves_with_path((encoded, metrics))
    names = ("message", "metrics")
    return {names[p[0].idx] + jtu.keystr(p[1:]): x for p, x in said}


def one_of(x: Any, axes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape[axes:], x.dtype)


def is_var(v: Any) -> bool:
    return isinstance(v, jex.Var)


def places_in(tree: PyTree) -> dict[str, int]:
    """The arrays of a tree by their names."""
    leaves = jtu.tree_leaves_with_path(tree)
    return {jtu.keystr(p): x.number for p, x in leaves if isinstance(x, Place)}


def paths_of(tree: PyTree) -> list[str]:
    leaves = jtu.tree_leaves_with_path(tree)
    return [jtu.keystr(path) for path, x in leaves if eqx.is_array(x)]
