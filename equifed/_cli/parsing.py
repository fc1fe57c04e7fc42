"""From words to settings.

tyro does the parsing: what it is given is a dataclass that is made for the algorithm
asked for, with a field for each of its arguments.

Which algorithm, task, recipe or file, and which optimisers, is looked for first.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from .. import recipes
from ..recipes._aggregators import (
    Aggregator,
    all_numbers_of,
    KINDS as AGGREGATORS,
    Number,
)
from ..recipes._arguments import Argument, arguments_of, MISSING
from ..recipes._helps import helps
from ..recipes._names import check_name
from ..recipes._optimizers import Decay, Optimizer, OPTIMIZERS
from .attacking import Attack, ATTACKS, numbers_of
from .settings import from_json_dict, of_recipe, Settings


# What is said with the same words for every algorithm.
_OWN = ("task", "algorithm", "numbers", "recipe", "privacy", "attack")
_OWN_PART = "default"  # the algorithm's
_NO_ATTACK = "none"
# What has a kind, and numbers that depend on it.
_KINDS = {
    Optimizer: OPTIMIZERS,
    Aggregator: dict.fromkeys(AGGREGATORS, Aggregator),
    Attack: dict.fromkeys(ATTACKS, Attack),
}


def settings_of(args: list[str]) -> tuple[Settings, str | None]:
    """The settings, and the folder to keep the run in, if it was named."""
    first, rest = _first().parse_known_args(args)
    base = _base(first)
    before = base.get("algorithm")
    if first.task is not None:
        base["task"] = recipes.task(first.task).name
    if first.algorithm is not None:
        base["algorithm"] = first.algorithm
    if {"-h", "--help"} & set(args):  # the help of something, whatever it is
        base = {"task": "digits-dense", "algorithm": "fedavg", **base}
    _check_asked_for(base)
    arguments = arguments_of(recipes.algorithm(base["algorithm"]))
    known = base.get("numbers", {})
    if before in (None, base["algorithm"]):
        for number in known:
            check_name(f"numbers of {base['algorithm']}", number, arguments)
    # Another algorithm than that of the recipe or the file has what both have.
    base["numbers"] = {n: x for n, x in known.items() if n in arguments}
    values = dict(vars(_parse(_form(base, arguments, rest), rest, base)))
    output = values.pop("output")
    numbers = _numbers({**arguments, "attack": _attack()}, values)
    attack = numbers.pop("attack", None)
    settings = Settings(
        **{n: base.get(n) for n in ("task", "algorithm", "recipe", "privacy")},
        numbers=numbers,
        attack=attack,
        **{n: x for n, x in values.items() if n in _shared()},
    )
    return settings, output


def _first() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
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
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file `{path}`.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"`{path}` is no JSON: {error}.") from None
    if not isinstance(values, Mapping):
        raise ValueError(f"`{path}` must hold an object of settings.")
    return from_json_dict(values)


def _check_asked_for(base: Mapping[str, Any]) -> None:
    known = {
        "task": [task.name for task in recipes.tasks()],
        "algorithm": recipes.algorithms(),
    }
    for name, names in known.items():
        if name not in base:
            raise ValueError(
                f"`--{name}` must be given, or a `--recipe`, or a `--config`. There "
                f"are: {', '.join(names)}."
            )


def _shared() -> list[str]:
    return [f.name for f in dataclasses.fields(Settings) if f.name not in _OWN]


def _form(
    base: Mapping[str, Any], arguments: Mapping[str, Argument], rest: list[str]
) -> type:
    """The dataclass of what can be said, with what is known already as defaults."""
    fields: list[tuple[str, Any, Any]] = []
    for name, argument in arguments.items():
        fields += _fields_of(argument, base["numbers"].get(name, MISSING), rest)
    words = helps(Settings)
    for field in dataclasses.fields(Settings):
        if field.name == "attack":
            fields += _fields_of(_attack(), base.get("attack"), rest)
        if field.name in _OWN:
            continue
        default = base.get(field.name, field.default)
        if field.name == "batching":
            fields.append((field.name, plain_form(field.type, default), MISSING))
        else:
            hint = _named(field.type, words[field.name])
            fields.append((field.name, hint, default))
    help_ = "the folder to keep the run in; one is named after the run if not given."
    fields.append(("output", _named(str | None, help_), None))
    made = [
        (name, hint)
        if default is MISSING
        else (name, hint, dataclasses.field(default=default))
        for name, hint, default in fields
    ]
    return dataclasses.make_dataclass("Settings", made, frozen=True, kw_only=True)


def _attack() -> Argument:
    words = helps(Settings)["attack"]
    return Argument(name="attack", kind=Attack, default=None, help=words)


def _fields_of(argument: Argument, given: Any, rest: list[str]) -> list[Any]:
    default = argument.default if given is MISSING else given
    known = _KINDS.get(argument.kind)
    if known is None:
        optional = argument.default is None
        hint = argument.kind | None if optional else argument.kind
        return [(argument.name, _named(hint, argument.help), default)]
    own = _NO_ATTACK if argument.kind is Attack else _OWN_PART
    kinds = (own, *known) if argument.default is None else tuple(known)
    kind = _kind_asked(argument.name, rest)
    now = own if default in (None, MISSING) else default.kind
    if now == own and argument.required:
        now = "sgd"
    if kind is None:
        kind = now
    check_name(argument.name, kind, kinds)
    option = _named(Literal[kinds], argument.help, argument.name.replace("_", "-"))
    fields: list[Any] = [(f"{argument.name}_kind", option, kind)]
    if kind != own:
        same = default if kind == now and default not in (None, MISSING) else None
        if argument.kind is Aggregator:
            words = AGGREGATORS[kind].__doc__
            hint = _numbers_form("Aggregator", words, all_numbers_of(kind), same)
        elif argument.kind is Attack:
            hint = _numbers_form("Attack", argument.help, numbers_of(kind), same)
        else:
            hint = plain_form(known[kind], same)
        fields.append((argument.name, hint, MISSING))
    return fields


def _kind_asked(name: str, rest: list[str]) -> str | None:
    """What follows `--client-optim`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options = {f"--{name.replace('_', '-')}", f"--{name}"}
    parser.add_argument(*options, dest="kind")
    return parser.parse_known_args(rest)[0].kind


def _numbers_form(
    called: str, words: str | None, numbers: Mapping[str, Number], given: Any
) -> type:
    """A class of the numbers of an aggregator, with what goes around it, or of an
    attack."""
    made: list[Any] = []
    for name, number in numbers.items():
        known = None if given is None else getattr(given, name)
        default = number.default if known is None else known
        hint = _named(number.type, number.help)
        one = () if default is MISSING else (dataclasses.field(default=default),)
        made.append((name, hint, *one))
    form = dataclasses.make_dataclass(called, made, frozen=True, kw_only=True)
    form.__doc__ = (words or "").split("\n\n")[0]
    return form


def plain_form(cls: Any, given: Any = None) -> type:
    """A class of numbers as one whose fields have their help, and what is given as
    defaults."""
    words, made = helps(cls), []
    for field in dataclasses.fields(cls):
        if field.name == "kind":  # It is asked for before.
            continue
        default = field.default if given is None else getattr(given, field.name)
        if field.type is Decay:
            hint: Any = plain_form(Decay, default)
            made.append((field.name, hint))
        elif default is MISSING:
            made.append((field.name, _named(field.type, words.get(field.name, ""))))
        else:
            hint = _named(field.type, words.get(field.name, ""))
            made.append((field.name, hint, dataclasses.field(default=default)))
    form = dataclasses.make_dataclass(cls.__name__, made, frozen=True, kw_only=True)
    form.__doc__ = (cls.__doc__ or "").split("\n\n")[0]
    return form


def _named(hint: Any, words: str, name: str | None = None) -> Any:
    import tyro  # an extra

    return Annotated[hint, tyro.conf.arg(help=words, name=name)]


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


def _numbers(arguments: Mapping[str, Argument], values: dict[str, Any]) -> Any:
    out = {}
    for name, argument in arguments.items():
        if argument.kind in _KINDS:
            kind, form = values.pop(f"{name}_kind"), values.pop(name, None)
            out[name] = None if form is None else _made(argument.kind, form, kind)
        else:
            out[name] = values.pop(name)
    # Made anew, with its checks.
    values["batching"] = _form_of(recipes.Batching, values["batching"])
    return {n: x for n, x in out.items() if x is not None}


def _made(what: Any, form: Any, kind: str) -> Any:
    if what in (Aggregator, Attack):
        return what(kind=kind, **vars(form))
    return _form_of(OPTIMIZERS[kind], form)


def _form_of(cls: Any, form: Any) -> Any:
    fields = dict(vars(form))
    if "decay" in fields:
        fields["decay"] = _form_of(Decay, fields["decay"])
    return cls(**fields)
