"""What is averaged over the clients without being trained: a model's state."""

from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._client import Stateful
from .._copy import tree_copy
from .._tree import split_statistics
from .._types import Model


def averaged(algorithm: Any, statistics: PyTree, own: PyTree) -> PyTree | None:
    """What of a model's state is averaged over the clients: `None` if nothing is."""
    if not isinstance(algorithm.loss, Stateful):
        if jtu.tree_leaves(own):
            raise ValueError(
                "`roles` make a part of the model's `eqx.nn.State` personal, but a "
                "plain loss leaves it as it is. Give the algorithm "
                "`equifed.Stateful(loss)`."
            )
        return None
    if not algorithm.carries_state:
        raise ValueError(
            f"`{type(algorithm).__name__}` does not carry the state of a `Stateful` "
            "loss from step to step. Take an algorithm of one pass whose clients run "
            "`LocalSGD` with the mean loss (`FedAvg`, `FedProx`, `Scaffold`, `FedAdam` "
            "or `FedBN`, say), or layers without a state (`GroupNorm`)."
        )
    return statistics if jtu.tree_leaves(statistics) else None


def copied(model: Model) -> Model:
    """A copy, with a state's arrays as rounds return them: of a strong type."""
    statistics, rest = split_statistics(tree_copy(model))
    strong = jtu.tree_map(
        lambda x: jax.lax.convert_element_type(x, x.dtype), statistics
    )
    return eqx.combine(strong, rest)
