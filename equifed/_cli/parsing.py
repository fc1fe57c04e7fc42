"""From words to settings.

tyro does the parsing: what it is given is a dataclass that is made for the algorithm
asked for, with a field for each of its arguments.

Which algorithm, task, recipe or file, and which optimisers, is looked for first.
"""

import argparse
import dataclasses
import difflib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from .. import recipes
from ..recipes._arguments import Argument, arguments_of, MISSING
from ..recipes._helps import helps
from ..recipes._names import check_name
from .asked import check_words, known_args
from .forms import (
    field_of,
    fields_of,
    filled_in,
    named,
    named_argument,
    plain_form,
)
from .saved import from_json_dict, of_recipe
from .settings import NAMED, Settings


# What is said with the same words for every algorithm, or has a kind.
_OWN = ("task", "algorithm", "numbers", "recipe", "privacy", *NAMED)


def settings_of(args: list[str]) -> tuple[Settings, str | None]:
    """The settings, and the folder to keep the run in, if it was named."""
    first, rest = known_args(_first(), args)
    base = _base(first)
    before = base.get("algorithm")
    if first.task is not None:
        base["task"] = recipes.task(first.task).name
    if first.algorithm is not None:
        base["algorithm"] = first.algorithm
    if {"-h", "--help"} & set(args):  # the help of something, whatever it is
        base = {"task": "digits-dense", "algorithm": "fedavg", **base}
    _check_asked_for(base, rest)
    arguments = arguments_of(recipes.algorithm(base["algorithm"]))
    known = base.get("numbers", {})
    if before in (None, base["algorithm"]):
        for number in known:
            check_name(f"numbers of {base['algorithm']}", number, arguments)
    # Another algorithm than that of the recipe or the file has what both have.
    base["numbers"] = {n: x for n, x in known.items() if n in arguments}
    form = _form(base, arguments, rest)
    check_words(form, rest, "equifed run")
    values = dict(vars(_parse(form, rest, base)))
    output = values.pop("output")
    numbers = filled_in(
        {**arguments, **{name: named_argument(name) for name in NAMED}}, values
    )
    parts = {name: numbers.pop(name, None) for name in NAMED}
    settings = Settings(
        **{n: base.get(n) for n in ("task", "algorithm", "recipe", "privacy")},
        numbers=numbers,
        **parts,
        **{n: x for n, x in values.items() if n in _shared()},
    )
    return settings, output


def _first() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False
    )
    for name in ("task", "algorithm", "recipe", "config"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--small", action="store_true")
    return parser


def _base(first: argparse.Namespace) -> dict[str, Any]:
    """What a recipe or a file says."""
    if first.recipe is not None and first.config is not None:
        raise ValueError(
            "`--recipe` and `--config` are two ways to give all numbers. Give one."
        )
    if first.small and first.recipe is None:
        raise ValueError("`--small` is a form of a recipe. Give `--recipe` as well.")
    if first.recipe is not None:
        recipe = recipes.recipe(first.recipe)
        small = of_recipe(recipe.small() if first.small else recipe)
        return small if first.small else {**small, "recipe": recipe.name}
    if first.config is not None:
        return read_config(pathlib.Path(first.config))
    return {}


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """The settings of a file."""
    try:
        values = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file `{path}`.") from None
    except IsADirectoryError:
        raise ValueError(
            f"`{path}` is a folder, not a file of settings. That of a run is in its "
            "`config.json`."
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"`{path}` is no JSON: {error}.") from None
    if not isinstance(values, Mapping):
        raise ValueError(f"`{path}` must hold an object of settings.")
    return from_json_dict(values)


def _check_asked_for(base: Mapping[str, Any], rest: list[str]) -> None:
    known = {
        "task": [task.name for task in recipes.tasks()],
        "algorithm": recipes.algorithms(),
    }
    for name, names in known.items():
        if name not in base:
            words = [word.partition("=")[0] for word in rest]
            near = difflib.get_close_matches(f"--{name}", words, n=1, cutoff=0.75)
            meant = f"Did you mean it by `{near[0]}`? " if near else ""
            raise ValueError(
                f"`--{name}` must be given, or a `--recipe`, or a `--config`. {meant}"
                f"There are: {', '.join(names)}."
            )


def _shared() -> list[str]:
    return [f.name for f in dataclasses.fields(Settings) if f.name not in _OWN]


def _form(
    base: Mapping[str, Any], arguments: Mapping[str, Argument], rest: list[str]
) -> type:
    """The dataclass of what can be said, with what is known already as defaults."""
    fields: list[tuple[str, Any, Any]] = []
    for name, argument in arguments.items():
        fields += fields_of(argument, base["numbers"].get(name, MISSING), rest)
    words = helps(Settings)
    for field in dataclasses.fields(Settings):
        if field.name in NAMED:
            known = base.get(field.name)
            fields += fields_of(named_argument(field.name), known, rest)
        if field.name in _OWN:
            continue
        default = base.get(field.name, field.default)
        if field.name == "batching":
            fields.append((field.name, plain_form(field.type, default), MISSING))
        else:
            hint = named(field.type, words[field.name])
            fields.append((field.name, hint, default))
    help_ = "the folder to keep the run in; one is named after the run if not given."
    fields.append(("output", named(str | None, help_), None))
    made = [(name, hint, field_of(hint, default)) for name, hint, default in fields]
    return dataclasses.make_dataclass("Settings", made, frozen=True, kw_only=True)


def _parse(form: type, rest: list[str], base: Mapping[str, Any]) -> Any:
    import tyro

    words = (recipes.algorithm(base["algorithm"]).__doc__ or "").split("\n\n")[0]
    description = (
        f"--task {base['task']} --algorithm {base['algorithm']}: {words} In place of "
        "these two, --recipe NAME (with --small, on the digits) or --config FILE. "
        "`equifed list` has the names."
    )
    return tyro.cli(
        form,
        args=rest,
        prog="equifed run",
        description=description,
        config=(tyro.conf.FlagConversionOff,),
    )
