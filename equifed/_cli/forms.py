"""Forms: dataclasses that tyro fills in, with a field and its help for every number.

What has a kind, an optimiser say, is two fields: the kind, `--client-optim sgd`, and
its numbers, `--client-optim.learning-rate 0.1`. Which these are depends on the kind, so
that it is looked for first.
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from .. import recipes
from ..recipes import _aggregators, _compression
from ..recipes._aggregators import Aggregator
from ..recipes._arguments import Argument, MISSING
from ..recipes._compression import Compression
from ..recipes._helps import helps
from ..recipes._names import check_name
from ..recipes._numbers import Number
from ..recipes._optimizers import Decay, Optimizer, OPTIMIZERS
from . import attacking, clocking
from .asked import known_args
from .attacking import Attack
from .clocking import Clock
from .settings import NAMED, Settings


_OWN_PART = "default"  # the algorithm's
_NONE = "none"
# The kinds of each, and what has numbers of its own for each kind.
_KINDS: dict[Any, Mapping[str, Any]] = {
    Optimizer: OPTIMIZERS,
    Aggregator: _aggregators.KINDS,
    Attack: attacking.ATTACKS,
    Clock: clocking.CLOCKS,
    Compression: _compression.KINDS,
}
_NUMBERS: dict[Any, Callable[[str], dict[str, Number]]] = {
    Aggregator: _aggregators.all_numbers_of,
    Attack: attacking.numbers_of,
    Clock: clocking.numbers_of,
    Compression: _compression.all_numbers_of,
}


def named_argument(name: str) -> Argument:
    """An attack, a clock or a compression, as an argument that need not be given."""
    return Argument(
        name=name, kind=NAMED[name], default=None, help=helps(Settings)[name]
    )


def fields_of(argument: Argument, given: Any, rest: list[str]) -> list[Any]:
    """The fields of a form for an argument.

    **Arguments:**

    - `given`: what is known of it already, if anything is.
    - `rest`: the words of the command line.
    """
    default = argument.default if given is MISSING else given
    if argument.kind not in _KINDS:
        optional = argument.default is None
        hint = argument.kind | None if optional else argument.kind
        return [(argument.name, named(hint, argument.help), default)]
    known = _kinds_of(argument)
    own = _NONE if argument.kind in NAMED.values() else _OWN_PART
    kinds = (own, *known) if argument.default is None else known
    kind = _kind_asked(argument.name, rest)
    now = own if default in (None, MISSING) else default.kind
    if now == own and argument.required:
        now = "sgd"
    if kind is None:
        kind = now
    if kind not in kinds:
        check_name(argument.name, kind, known)
    option = named(Literal[kinds], argument.help, argument.name.replace("_", "-"))
    fields: list[Any] = [(f"{argument.name}_kind", option, kind)]
    numbers: list[str] = []
    if kind != own:
        same = default if kind == now and default not in (None, MISSING) else None
        form = _form_of_kind(argument, kind, same)
        fields.append((argument.name, form, MISSING))
        numbers = [field.name for field in dataclasses.fields(form)]
    _check_options(argument.name, kind, numbers, rest)
    return fields


def _kinds_of(argument: Argument) -> tuple[str, ...]:
    kinds = tuple(_KINDS[argument.kind])
    if argument.name != "compress_down":
        return kinds
    return tuple(kind for kind in kinds if kind not in _compression.UP_ALONE)


def _kind_asked(name: str, rest: list[str]) -> str | None:
    """What follows `--client-optim`."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False
    )
    options = {f"--{name.replace('_', '-')}", f"--{name}"}
    parser.add_argument(*options, dest="kind")
    return known_args(parser, rest)[0].kind


def _check_options(name: str, kind: str, known: list[str], rest: list[str]) -> None:
    """Refuses a number of another kind than the one asked for."""
    for word in rest:
        of, _, option = word.partition("=")[0].replace("-", "_").partition(".")
        option = option.partition(".")[0]
        if of == f"__{name}" and option and option not in known:
            word, whole = word.partition("=")[0], f"--{name.replace('_', '-')}"
            has = ", ".join(f"`{whole}.{x.replace('_', '-')}`" for x in known)
            raise ValueError(
                f"`{word}` is of no use: `{whole}` is {kind!r}, which has "
                f"{has or 'no numbers'}."
            )


def _form_of_kind(argument: Argument, kind: str, given: Any) -> type:
    """The numbers of a kind, with what is given as defaults."""
    if argument.kind is Optimizer:
        return plain_form(OPTIMIZERS[kind], given)
    numbers = _NUMBERS[argument.kind](kind)
    if argument.name == "compress_down":  # what is lost is in the next one anyway
        numbers.pop("feedback", None)
    words = argument.help
    if argument.kind is Aggregator:
        words = _aggregators.KINDS[kind].__doc__
    return _numbers_form(argument.kind.__name__, words, numbers, given)


def _numbers_form(
    called: str, words: str | None, numbers: Mapping[str, Number], given: Any
) -> type:
    made: list[Any] = []
    for name, number in numbers.items():
        known = None if given is None else getattr(given, name)
        default = number.default if known is None else known
        hint = named(number.type, number.help)
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
            form = plain_form(Decay, default)
            made.append((field.name, form, field_of(form)))
        elif default is MISSING:
            made.append((field.name, named(field.type, words.get(field.name, ""))))
        else:
            hint = named(field.type, words.get(field.name, ""))
            made.append((field.name, hint, dataclasses.field(default=default)))
    form = dataclasses.make_dataclass(cls.__name__, made, frozen=True, kw_only=True)
    form.__doc__ = (cls.__doc__ or "").split("\n\n")[0]
    return form


def field_of(hint: Any, default: Any = MISSING) -> Any:
    """A field of a form. That of another form has its words as help: without one tyro
    looks for a comment in the source of each form, which has none."""
    about = {}
    if dataclasses.is_dataclass(hint):
        about["help"] = " ".join((hint.__doc__ or "").split())
    return dataclasses.field(default=default, metadata=about)


def named(hint: Any, words: str, name: str | None = None) -> Any:
    """A type with its help, and perhaps a name of its own."""
    import tyro  # an extra

    return Annotated[hint, tyro.conf.arg(help=words, name=name)]


def filled_in(arguments: Mapping[str, Argument], values: dict[str, Any]) -> Any:
    """What the fields of arguments hold, which are taken from `values`; what is not
    said is left out."""
    out = {}
    for name, argument in arguments.items():
        if argument.kind in _KINDS:
            kind, form = values.pop(f"{name}_kind"), values.pop(name, None)
            out[name] = None if form is None else _made(argument.kind, form, kind)
        else:
            out[name] = values.pop(name)
    # Made anew, with its checks.
    values["batching"] = _made_of(recipes.Batching, values["batching"])
    return {n: x for n, x in out.items() if x is not None}


def _made(what: Any, form: Any, kind: str) -> Any:
    if what is Optimizer:
        return _made_of(OPTIMIZERS[kind], form)
    return what(kind=kind, **vars(form))


def _made_of(cls: Any, form: Any) -> Any:
    fields = dict(vars(form))
    if "decay" in fields:
        fields["decay"] = _made_of(Decay, fields["decay"])
    return cls(**fields)
