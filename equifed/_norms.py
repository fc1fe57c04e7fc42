"""Which parts of a model normalise, and what they have measured: what methods for
clients whose features differ keep with each client."""

from typing import Any

import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import PyTree

from ._tree import is_state
from ._types import Model


def norms(model: Model) -> tuple[PyTree, ...]:
    """A model's normalisation layers: Equinox's `BatchNorm`, `GroupNorm`, `LayerNorm`
    and `RMSNorm`, layers derived from these, and the `GroupNorm` of `equifed.models`;
    of an `equinox.nn.State`, what is theirs.

    It says which leaves have a role, as [`equifed.roles`][] takes it. Layers of your
    own are chosen by their path: `by=lambda path, leaf: ...`.

    **Arguments:**

    - `model`: the model, or any PyTree that holds layers.

    **Returns:**

    The layers, in the model's order, and their states: empty, if it has none.

    !!! example

        ```python
        roles = eqf.roles(model, personal=eqf.norms)
        ```
    """
    from .models._group_norm import GroupNorm  # Models are loaded when first used.

    nn = eqx.nn
    kinds = (nn.BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, GroupNorm)
    leaves = jtu.tree_leaves(model, is_leaf=lambda x: isinstance(x, kinds))
    layers = tuple(x for x in leaves if isinstance(x, kinds))
    return (*layers, *(x.substate(_known(layers, x)) for x in _states(model)))


def statistics(model: Model) -> tuple[eqx.nn.State, ...]:
    """The states in a model (`equinox.nn.State`): running statistics of `BatchNorm`,
    and whatever else its layers keep. It says which leaves have a role, as
    [`equifed.roles`][] takes it.

    **Arguments:**

    - `model`: the pair `(model, state)`, or any PyTree that holds states.

    **Returns:**

    The states: empty, if there are none.

    !!! example

        ```python
        roles = eqf.roles((model, state), personal=eqf.statistics)  # SiloBN
        ```
    """
    return tuple(_states(model))


def _states(model: Model) -> list[eqx.nn.State]:
    leaves = jtu.tree_leaves(model, is_leaf=is_state)
    return [x for x in leaves if is_state(x)]


def _known(layers: tuple[PyTree, ...], state: eqx.nn.State) -> list[Any]:
    """Those places for a state, in layers, that this state has."""
    leaves = jtu.tree_leaves(layers, is_leaf=_is_index)
    markers = set(state.tree_flatten()[1])
    return [x for x in leaves if _is_index(x) and x.marker in markers]


def _is_index(x: Any) -> bool:
    return isinstance(x, eqx.nn.StateIndex)
