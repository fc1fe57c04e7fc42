"""The roles of a model's arrays: which travel, which stay with a client, and which stay
as they are.

Methods of personalisation differ in little else. A head that each client has for itself
is personal, a backbone that nobody trains is frozen, and all the rest is shared. The
one place that tells them apart is here.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.tree_util as jtu
import wadler_lindig as wl
from jaxtyping import PyTree

from ._check import check_choice
from ._role_table import array_words, paths_of, table
from ._selected import asked, selected
from ._tree import split_params, split_statistics
from ._types import Model, Params
from ._words import shown


Role = Literal["shared", "personal", "frozen"]
ROLES: tuple[Role, ...] = ("shared", "personal", "frozen")

Where: TypeAlias = Callable[[Model], PyTree] | PyTree[bool]


class LeafRole(eqx.Module):
    """One array of the model."""

    path: str = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    dtype: str = eqx.field(static=True)
    role: Role = eqx.field(static=True)


class Roles(eqx.Module):
    """What each array of a model is in training: made by [`equifed.roles`][].

    It is compared by value, and holds no array and no function, so that one made anew
    compiles nothing again.
    """

    leaves: tuple[LeafRole, ...] = eqx.field(static=True)

    def of(self, role: Role) -> tuple[str, ...]:
        """The paths of the arrays that have a role.

        **Raises:**

        `ValueError` if there is no such role.
        """
        check_choice("role", role, ROLES)
        return tuple(leaf.path for leaf in self.leaves if leaf.role == role)

    def split(self, model: Model) -> tuple[Params, Params, Model]:
        """A model's shared arrays, its personal ones, and the rest, each `None` where
        the others are.

        **Raises:**

        `ValueError` if the roles are of another model.
        """
        has_role, rest = _split(model)
        self._check(has_role)
        personal = _at(has_role, set(self.of("personal")))
        frozen = _at(has_role, set(self.of("frozen")))
        shared = _at(has_role, set(self.of("shared")))
        return shared, personal, eqx.combine(rest, frozen)

    def _check(self, params: Params) -> None:
        known = {leaf.path: (leaf.shape, leaf.dtype) for leaf in self.leaves}
        found = {x.path: (x.shape, x.dtype) for x in _leaves(params, {})}
        if known == found:
            return
        path = next(p for p in {**known, **found} if known.get(p) != found.get(p))
        words = [
            "nothing" if where.get(path) is None else array_words(*where[path])
            for where in (known, found)
        ]
        raise ValueError(
            f"`roles` are of another model: of `{path or 'the model'}` they know "
            f"{words[0]}, and the model has {words[1]}. Make them with "
            "`equifed.roles(model, ...)` of the model that is trained."
        )

    def __pdoc__(self, **kwargs: Any) -> wl.AbstractDoc:
        return wl.TextDoc(repr(self))

    def __repr__(self) -> str:
        return table(self.leaves, ROLES)


def roles(
    model: Model,
    *,
    shared: Where | None = None,
    personal: Where | None = None,
    frozen: Where | None = None,
    by: Callable[[str, Any], str] | PyTree[str] | None = None,
) -> Roles:
    """Says of a model's arrays which are shared, personal or frozen.

    A *shared* array is trained and sent; a *personal* one is trained by each client for
    itself, and kept by it; a *frozen* one is neither: it has no gradient, no optimiser
    state, no message and no copy for each client. Only floating-point arrays have a
    role: whole numbers, functions and sizes stay as they are.

    All arrays of an `equinox.nn.State` have one too, which counts under a
    [`equifed.Stateful`][] loss. They are not trained: what is shared is averaged, what
    is personal is the client's own, what is frozen stays as it is.

    **Arguments:**

    - `model`: the model that will be trained, or its shapes (`filter_eval_shape`).
    - `shared`, `personal`, `frozen`: which arrays these are. Each is a function of the
        model that returns a part of it, or several, as `equinox.tree_at` takes it
        (`lambda m: m.head`, `lambda m: (m.head, m.norm.weight)`), or a PyTree of
        booleans like the model or a part of it. What none of them names is shared, or,
        if `shared` is given, frozen.
    - `by`: in place of these, a function of a leaf's path (`".layers[0].weight"`) and
        the leaf that returns its role by name; or a PyTree of names like the model or a
        part of it.

    **Raises:**

    `ValueError` for an array that is named twice, or does not exist, or cannot be
    trained, or if nothing is trained.

    !!! example

        ```python
        eqf.roles(model, personal=lambda m: m.layers[-1])
        eqf.roles(model, shared=lambda m: m.adapters)  # all else is frozen
        eqf.roles(model, by=lambda path, x: "personal" if "norm" in path else "shared")
        ```
    """
    asked: Any = {"shared": shared, "personal": personal, "frozen": frozen}
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jtu.tree_leaves(model)):
        return eqx.filter_eval_shape(lambda m: roles(m, **asked, by=by), model)
    params, _ = _split(model)
    given = {name: where for name, where in asked.items() if where is not None}
    if by is not None:
        if given:
            other = next(iter(given))
            raise ValueError(
                f"`by` says the role of every array, and `{other}` that of some. Give "
                "one of them."
            )
        named = _by(params, by)
    else:
        named = {}
        for name, where in given.items():
            for path in _named(name, where, model, params):
                if path in named:
                    raise ValueError(
                        f"The model's `{path}` is named by `{named[path]}` and by "
                        f"`{name}`. An array has one role."
                    )
                named[path] = name
        default = "frozen" if shared is not None else "shared"
        named = {x.path: default for x in _leaves(params, {})} | named
    leaves = _leaves(params, named)
    can_train = dict(_by_path(split_params(model)[0]))
    if not any(x.role != "frozen" for x in leaves if x.path in can_train):
        raise ValueError(
            "Nothing is trained: no floating-point array of the model is shared or "
            f"personal, got {shown(model)}."
        )
    return Roles(leaves)


def split_model(
    model: Model, roles: Roles | None
) -> tuple[Params, Params, Params, Model]:
    """What is shared of a model's params, what is personal (with what is of its
    states), what is shared of its states, and the rest: by default all is shared."""
    if roles is None:
        shared, rest = _split(model)
        personal = _at(shared, set())
    else:
        shared, personal, rest = roles.split(model)
    params, statistics = split_params(shared)
    return params, personal, statistics, rest


def _split(model: Model) -> tuple[Params, Model]:
    """What can have a role, and what cannot."""
    params, rest = split_params(model)
    statistics, rest = split_statistics(rest)
    return eqx.combine(params, statistics), rest


def is_empty(params: Params) -> bool:
    return not jtu.tree_leaves(params)


def _leaves(params: Params, named: dict[str, Any]) -> tuple[LeafRole, ...]:
    return tuple(
        LeafRole(path, tuple(x.shape), str(x.dtype), named.get(path, "shared"))
        for path, x in _by_path(params)
    )


def _by_path(params: Params) -> list[tuple[str, Any]]:
    return list(zip(paths_of(params), jtu.tree_leaves(params), strict=True))


def _at(params: Params, paths: set[str]) -> Params:
    """Those leaves, `None` elsewhere."""
    kept = [x if path in paths else None for path, x in _by_path(params)]
    return jtu.tree_unflatten(jtu.tree_structure(params), kept)


def _named(name: str, where: Where, model: Model, params: Params) -> list[str]:
    """The paths that a selector names."""
    if not _is_tree_of(bool, where) and callable(where):
        paths = selected(name, where, model)
    else:
        try:
            chosen = eqx.filter(model, where)
        except ValueError as error:
            raise ValueError(
                f"`{name}` must be a function of the model (`lambda m: m.head`), or a "
                f"tree of booleans like the model or a part of it, got {shown(where)}."
            ) from error
        paths = [p for p, x in _by_path(chosen) if eqx.is_array(x)]
    can = dict(_by_path(params))
    found = [path for path in paths if path in can]
    if not found:
        raise ValueError(
            f"`{name}` names no floating-point array of the model, got {shown(where)}. "
            "`lambda m: m.head`, for example, names all arrays of a part."
        )
    return found


def _is_tree_of(kind: type, tree: PyTree) -> bool:
    """Whether it says something of leaves, though it may be callable: a model is."""
    leaves = jtu.tree_leaves(tree)
    return bool(leaves) and all(isinstance(x, kind) for x in leaves)


def _by(params: Params, by: Any) -> dict[str, Any]:
    if not _is_tree_of(str, by) and callable(by):
        named: dict[str, Any] = {p: asked("by", by, p, x) for p, x in _by_path(params)}
    else:
        try:
            spread = jtu.tree_map(
                lambda role, x: jtu.tree_map(lambda _: role, x),
                by,
                params,
                is_leaf=lambda x: isinstance(x, str),
            )
        except ValueError as error:
            raise ValueError(
                "`by` must be a function of a path and a leaf, or a tree of names like "
                f"the model or a part of it, got {shown(by)}."
            ) from error
        named = dict(_by_path(spread))
    for path, role in named.items():
        if not isinstance(role, str) or role not in ROLES:
            raise ValueError(
                f"The role of `{path}` must be 'shared', 'personal' or 'frozen', got "
                f"{shown(role)}."
            )
    return named
