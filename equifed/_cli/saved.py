"""Settings from elsewhere: those of a recipe, and those that were written down."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .._algorithm import AbstractAlgorithm
from .._check import check_hint, check_kind
from ..recipes import (
    algorithm,
    Batching,
    Privacy,
    Recipe,
    recipe as recipe_of,
)
from ..recipes._arguments import arguments_of, checked_numbers, from_json
from ..recipes._names import check_name
from .settings import NAMED, Settings


def of_recipe(recipe: Recipe) -> dict[str, Any]:
    """A recipe's settings; the others are left as they are."""
    return {
        "task": recipe.task.name,
        "algorithm": recipe.algorithm_name,
        "numbers": checked_numbers(recipe.algorithm, recipe.numbers),
        "personal": (),
        "frozen": (),
        "lora": None,
        "batching": recipe.batching,
        "clients_per_round": recipe.clients_per_round,
        "power_of_choice": None,
        "rounds": recipe.rounds,
        "max_examples": recipe.max_examples,
        "attack": None,
        "clock": None,
        "attackers": None,
        "root_examples": None,
        "fine_tune": None,
        "eval_every": recipe.eval_every,
        "privacy": recipe.privacy,
        "compress": recipe.compress,
        "compress_down": recipe.compress_down,
    }


def from_json_dict(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that were written down."""
    known = {f.name: f for f in dataclasses.fields(Settings)}
    for name in values:
        check_name("setting", name, known)
    out = dict(values)
    missing = [name for name in ("task", "algorithm", "numbers") if name not in out]
    if missing:
        raise ValueError(
            f"A configuration needs `task`, `algorithm` and `numbers`, and has no "
            f"{missing[0]!r}. Give one that a run has saved: its `config.json`."
        )
    for name in ("personal", "frozen"):
        names = out.get(name, ())
        check_kind(name, names, (list, tuple), 'Give `["head"]`, for example.')
        out[name] = tuple(map(str, names))
    parts: dict[str, Any] = {"privacy": Privacy, **NAMED}
    for part, cls in {"batching": Batching, **parts}.items():
        if part in out and (out[part] is not None or part == "batching"):
            out[part] = _part(part, cls, out[part])
    for name, x in out.items():
        if name not in ("numbers", "task", "algorithm"):
            check_hint(name, x, known[name].type)
    if out.get("recipe") is not None:
        recipe_of(out["recipe"])
    arguments = arguments_of(algorithm(out["algorithm"]))
    check_kind("numbers", out["numbers"], Mapping)
    out["numbers"] = {
        name: from_json(arguments[name], x) if name in arguments else x
        for name, x in out["numbers"].items()
    }
    return out


def _part(name: str, cls: Any, values: Any) -> Any:
    """A part that has settings of its own."""
    check_kind(name, values, Mapping)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for field in values:
        check_name(f"numbers of {name}", field, fields)
    if name in NAMED:
        return cls(**{"kind": None, **values})  # which lists the kinds
    for field in fields.values():
        if field.default is dataclasses.MISSING and field.name not in values:
            raise ValueError(f"`{name}` needs `{field.name}`, which is missing.")
    return cls(**values)


def differs(settings: Settings) -> list[str]:
    """In which settings a run is not its recipe."""
    if settings.recipe is None:
        return []
    recipe = recipe_of(settings.recipe)
    wanted = of_recipe(recipe)
    wanted["numbers"] = _whole(recipe.algorithm, wanted["numbers"])
    numbers = _whole(algorithm(settings.algorithm), settings.numbers)
    ours = {name: getattr(settings, name) for name in wanted} | {"numbers": numbers}
    return [name for name, x in wanted.items() if ours[name] != x]


def _whole(cls: type[AbstractAlgorithm], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers, and the defaults of those that are not given."""
    arguments = arguments_of(cls)
    return {name: numbers.get(name, x.default) for name, x in arguments.items()}
