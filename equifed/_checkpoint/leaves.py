"""The array leaves of a state, and whether those of a checkpoint are the same."""

import pathlib
from itertools import zip_longest
from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .._store import ClientRows


def array_leaves(tree: PyTree) -> dict[str, Any]:
    leaves = jtu.tree_leaves_with_path(tree)
    return {jtu.keystr(path): x for path, x in leaves if _is_array(x)}


def replace_arrays(tree: PyTree, arrays: list[Any]) -> PyTree:
    remaining = iter(arrays)
    return jtu.tree_map(lambda x: next(remaining) if _is_array(x) else x, tree)


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | ClientRows)


def describe(x: Any) -> tuple[str, list[int]]:
    return str(x.dtype), list(x.shape)


def check_same(
    path: pathlib.Path, about: dict[str, Any], algorithm: str, leaves: dict[str, Any]
) -> None:
    other = (
        f"The checkpoint `{path}` is of another algorithm, model or roles, "
        "or of another number of clients"
    )
    remedy = (
        "Give the algorithm and the model that it was made with, or another directory."
    )
    if algorithm and about["algorithm"] and algorithm != about["algorithm"]:
        raise ValueError(
            f"{other}: it is of `{about['algorithm']}`, not `{algorithm}`. {remedy}"
        )
    saved = {where: (dtype, shape) for where, dtype, shape in about["leaves"]}
    # A training with a `stop` keeps its best model beside the state.
    stops, stop = (any(x.startswith(".best") for x in has) for has in (saved, leaves))
    if stops != stop:
        with_, give = ("with", "the same") if stops else ("without", "no")
        raise ValueError(
            f"The checkpoint `{path}` is of a training {with_} a `stop`. Give {give} "
            "`stop`, or another directory."
        )
    for has, expected in zip_longest(saved, leaves):
        if has != expected:
            if expected is not None and expected not in saved:
                raise ValueError(f"{other}: it has no `{expected}`. {remedy}")
            raise ValueError(f"{other}: it has `{has}`, which is not known. {remedy}")
        if saved[has] != describe(leaves[has]):
            raise ValueError(
                f"{other}: its `{has}` is {_short(*saved[has])}, not "
                f"{_short(*describe(leaves[has]))}. {remedy}"
            )


def _short(dtype: str, shape: list[int]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"
