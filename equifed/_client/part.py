"""A part of the model's params, which an argument names as `lambda m: m.head` does."""

from collections.abc import Callable

import jax.tree_util as jtu
from jaxtyping import PyTree

from .._selected import selected
from .._tree import tree_add
from .._types import Model, Params
from .._words import shown


def part_of(argument: str, where: Callable[[Model], PyTree], params: Params) -> Params:
    """The params that a function of the model names, `None` elsewhere.

    **Raises:**

    `ValueError` if the function fails, or names none.
    """
    paths = set(selected(argument, where, params))
    found = jtu.tree_map_with_path(
        lambda path, x: x if jtu.keystr(path) in paths else None, params
    )
    if not jtu.tree_leaves(found):
        raise ValueError(
            f"`{argument}` names no array of the model that is trained and shared, got "
            f"{shown(where)}. `lambda m: m.head`, for example, names all arrays of a "
            "part."
        )
    return found


def add_part(part: Params, whole: Model) -> Model:
    """The whole with the part added where there is one."""
    return jtu.tree_map(
        lambda p, x: x if p is None else tree_add(x, p),
        part,
        whole,
        is_leaf=lambda x: x is None,
    )
