"""Which parts of a model normalise: what methods for clients whose features differ keep
with each client."""

import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import PyTree

from ._types import Model


def norms(model: Model) -> tuple[PyTree, ...]:
    """A model's normalisation layers: Equinox's `BatchNorm`, `GroupNorm`, `LayerNorm`
    and `RMSNorm`, layers derived from these, and the `GroupNorm` of `equifed.models`.

    It says which leaves have a role, as [`equifed.roles`][] takes it. Layers of your
    own are chosen by their path: `by=lambda path, leaf: ...`.

    **Arguments:**

    - `model`: the model, or any PyTree that holds layers.

    **Returns:**

    The layers, in the model's order: empty, if it has none.

    !!! example

        ```python
        roles = eqf.roles(model, personal=eqf.norms)
        ```
    """
    from .models._group_norm import GroupNorm  # Models are loaded when first used.

    nn = eqx.nn
    kinds = (nn.BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, GroupNorm)
    leaves = jtu.tree_leaves(model, is_leaf=lambda x: isinstance(x, kinds))
    return tuple(x for x in leaves if isinstance(x, kinds))
