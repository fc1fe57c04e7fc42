"""Which parts of a task's model stay with each client, and which stay as they are, by
names that can be typed."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._algorithm import AbstractAlgorithm, AbstractAsynchronous, FedBN, LGFedAvg
from .._norms import norms
from .._roles import Role, Roles, roles
from .._types import Model
from ..nn import adapters, lora_a, lora_b
from ._names import check_name
from ._task import Task


# What an algorithm's paper makes personal, or frozen, where it is not the last layer.
_OF_THE_PAPER = {FedBN: "norms", LGFedAvg: "body"}


def roles_of(
    cls: type[AbstractAlgorithm],
    task: Task,
    model: Model,
    named: Mapping[Role, Sequence[str]],
) -> Roles | None:
    """The roles of a model's leaves; `None` if nothing is named and the algorithm needs
    none.

    **Arguments:**

    - `named`: for a role the names of parts: `"head"`, the task's last layer; `"body"`,
        all but that; `"norms"`, the layers that normalise; `"adapters"`, `"lora_a"` and
        `"lora_b"`, the changes of low rank; or the path of a part, `"layers.0"` or
        `"layers.0.bias"`. A role that the algorithm needs and that is not named has the
        part that its paper gives it. What there is of adapters and has no name is
        shared, and then all else is frozen.

    **Raises:**

    `ValueError` for a part that the model does not have, or what [`equifed.roles`][]
    refuses.
    """
    words = _words(task, model)
    asked = {role: tuple(names) for role, names in named.items() if names}
    # What is inside of an asynchronous one that is made of a loss needs none.
    needs = () if issubclass(cls, AbstractAsynchronous) else cls.needs
    for role in needs:
        if role in asked:
            continue
        name = _OF_THE_PAPER.get(cls, "head")
        if name not in words:
            raise ValueError(
                f"`{cls.__name__}` needs {role} parts of the model, and takes its "
                f"{name!r} if none are named, but that of {task.name!r} has none. Name "
                f"others by `--{role}`, `--{role} {next(iter(_inside(model)))}` say."
            )
        asked[role] = (name,)
    if not asked and "adapters" not in words:
        return None
    trees: dict[str, PyTree] = {
        role: jtu.tree_map(
            lambda *are: any(are),
            *(_part(role, name, model, words) for name in names),
        )
        for role, names in asked.items()
    }
    if "adapters" in words:
        trees["shared"] = jtu.tree_map(
            lambda is_one, *others: is_one and not any(others),
            words["adapters"],
            *trees.values(),
        )
    return roles(model, **trees)


def _words(task: Task, model: Model) -> dict[str, PyTree]:
    """The parts that have a name in every model, as trees of booleans."""
    out = {}
    if task.head is not None:
        out["head"] = _where(task.head, model)
        out["body"] = jtu.tree_map(lambda is_head: not is_head, out["head"])
    if norms(model):
        out["norms"] = _where(norms, model)
    if adapters(model):
        low_rank = {"adapters": adapters, "lora_a": lora_a, "lora_b": lora_b}
        out |= {name: _where(where, model) for name, where in low_rank.items()}
    return out


def _where(where: Any, model: Model) -> PyTree:
    nowhere = jtu.tree_map(lambda _: False, model)
    return eqx.tree_at(
        where, nowhere, replace_fn=lambda part: jtu.tree_map(lambda _: True, part)
    )


def _part(role: str, path: str, model: Model, words: Mapping[str, PyTree]) -> PyTree:
    """The part that a name says, as a tree of booleans."""
    if path in words:
        return words[path]
    names, here = path.split("."), model
    for i, name in enumerate(names):
        known = [inner for inner, x in _inside(here).items() if _has_arrays(x)]
        before = ".".join(names[:i])
        if not known:
            raise ValueError(
                f"`{role}` names {path!r}, but {before!r} has no parts. Name that."
            )
        kind = f"{role} {before}".strip()
        check_name(kind, name, known if i else [*words, *known])
        here = _inside(here)[name]
    return _where(lambda tree: functools.reduce(_get, names, tree), model)


def _get(part: PyTree, name: str) -> PyTree:
    return _inside(part)[name]


def _inside(part: PyTree) -> dict[str, PyTree]:
    """The parts of a part, by name."""
    if dataclasses.is_dataclass(part):
        return {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    if isinstance(part, Mapping):
        return {str(name): x for name, x in part.items()}
    if isinstance(part, list | tuple):
        return {str(i): x for i, x in enumerate(part)}
    return {}


def _has_arrays(part: PyTree) -> bool:
    return any(map(eqx.is_inexact_array, jtu.tree_leaves(part)))
