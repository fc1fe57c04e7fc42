"""A state whose memory the next round was given.

Copying the state in every round would cost time, and twice the memory. So each round
takes the memory of the state before it, and JAX then says of whatever is left in a
user's hands that an array has been deleted. Here it is said which array, and why.
"""

from typing import Any

import jax
import jax.core
import jax.tree_util as jtu


MESSAGE = (
    "was used up by the next round, which took its memory. Copy what you want to keep "
    "of it before going on: `jax.tree.map(jnp.copy, {0})`. If the loop was "
    "interrupted, the exception's `state` is what was reached."
)

DELETED = (
    "is frozen, and has been deleted. No round takes its memory: it is the array of "
    "the model that the training began with. Keep it for as long as the training is "
    "gone on with."
)


class UsedUpError(AttributeError, ValueError):
    """The state is not there any more."""


def use_up(state: Any) -> None:
    """Makes the fields of a state raise an error when they are looked at.

    (As Equinox does with its own `State` when that is set.)
    """
    state.__dict__.clear()


def check_not_used_up(name: str, tree: Any) -> None:
    """Refuses what has arrays that are not there any more.

    What is frozen, the `rest` of a state, is the user's own array, which no round
    takes: somebody else has deleted it.
    """
    if not any(map(_is_deleted, jtu.tree_leaves(tree))):
        return  # The paths of the leaves take longer.
    for path, x in jtu.tree_leaves_with_path(tree):
        if _is_deleted(x):
            at = f"{name}{jtu.keystr(path)}"
            if at.startswith("state.rest"):
                raise UsedUpError(f"`{at}` {DELETED}")
            raise UsedUpError(f"`{at}` {MESSAGE.format(name)}")


def _is_deleted(x: Any) -> bool:
    here = isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)
    return here and x.is_deleted()
