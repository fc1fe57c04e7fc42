"""What a function of the user's chooses of a model: parts of it, or leaf by leaf."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import PyTree

from ._role_table import paths_of
from ._types import Model
from ._words import first_line, shown


class _Leaf(eqx.Module):
    """Stands for a leaf, so that it is known again."""

    path: str = eqx.field(static=True)


def selected(name: str, where: Callable[[Model], PyTree], model: Model) -> list[str]:
    """The paths of the leaves that a function of the model returns."""
    paths = paths_of(model)
    marked = jtu.tree_unflatten(jtu.tree_structure(model), map(_Leaf, paths))
    known = set(paths)
    remedy = (
        "Give a function of the model that returns a part of it: `lambda m: m.head`"
    )
    try:
        chosen = where(marked)
    except Exception as error:
        raise ValueError(
            f"`{name}` could not be found in the model, {type(model).__name__}: "
            f"{type(error).__name__}: {first_line(error)}. {remedy}."
        ) from error
    leaves = jtu.tree_leaves(chosen, is_leaf=lambda x: isinstance(x, _Leaf))
    for leaf in leaves:
        if not isinstance(leaf, _Leaf) or leaf.path not in known:
            raise ValueError(
                f"`{name}` must name parts of the model, got {shown(leaf)}. {remedy}; "
                "a function of a leaf's path and the leaf is `by=`."
            )
    return list(dict.fromkeys(leaf.path for leaf in leaves))


def asked(name: str, by: Callable[[str, Any], Any], path: str, x: Any) -> Any:
    """What a function of the user's says of a part of the model."""
    try:
        return by(path, x)
    except Exception as error:
        raise ValueError(
            f"`{name}` could not be asked of `{path or 'the model'}`: "
            f"{type(error).__name__}: {first_line(error)}. It is called with a path "
            "and what is there: `lambda path, x: ...`."
        ) from error
