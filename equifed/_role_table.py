"""How a model's arrays are called, and the table that shows their roles."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import jax.tree_util as jtu
from jaxtyping import PyTree

from ._tree import is_state


def array_words(shape: tuple[int, ...], dtype: str) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def table(leaves: Iterable[Any], roles: Iterable[str]) -> str:
    """One row for each leaf, and how many parameters there are of each role."""
    rows = [("leaf", "array", "role", "parameters")]
    counts: Counter[str] = Counter()
    for x in leaves:
        size = math.prod(x.shape)
        counts[x.role] += size
        rows.append((x.path, array_words(x.shape, x.dtype), x.role, f"{size:,}"))
    a, b, c, d = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [f"{w:{a}}  {x:{b}}  {y:{c}}  {z:>{d}}" for w, x, y, z in rows]
    total = ", ".join(f"{counts[r]:,} {r}" for r in roles if counts[r])
    return "\n".join([*lines, f"Roles: {total} parameters"])


def paths_of(tree: PyTree) -> list[str]:
    """The path of each leaf, in their order: as JAX writes it, but for the leaves of an
    `equinox.nn.State`, which know the layer that they belong to."""
    found: list[str] = []
    for path, leaf in jtu.tree_leaves_with_path(tree, is_leaf=is_state):
        where = jtu.keystr(path)
        if not is_state(leaf):
            found.append(where)
            continue
        for value, layer in zip(*leaf.tree_flatten(), strict=True):
            found += [
                f"{where}[{layer!r}]{jtu.keystr(p)}"
                for p, _ in jtu.tree_leaves_with_path(value)
            ]
    return found
