"""What the words of a command line lack, or have wrong, in one sentence for each.

tyro says it as well, in a box of its own that lists all that a command takes; so the
words are looked at before it is given them.
"""

import argparse
import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from .._words import either


_SWITCHES = {"True": True, "False": False}


def known_args(
    parser: argparse.ArgumentParser, words: list[str]
) -> tuple[argparse.Namespace, list[str]]:
    """`parse_known_args` of a parser with `exit_on_error=False`."""
    try:
        return parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        option = (error.argument_name or "").split("/")[0]
        raise ValueError(f"`{option}` is given no value. Write one after it.") from None


def parsed(arguments: Callable[..., Any], words: list[str], prog: str) -> Any:
    """What a function of a command returns, called with the words."""
    import tyro

    check_words(arguments, words, prog)
    return tyro.cli(arguments, args=words, prog=prog)


def check_words(form: Any, words: list[str], prog: str) -> None:
    """Refuses words that a form has not, or without what it must be given, or with
    what is no value of it.

    **Arguments:**

    - `form`: a dataclass, or a function.
    - `prog`: the command, for its help.

    **Raises:**

    `ValueError`, for the first of them.
    """
    if {"-h", "--help"} & set(words):
        return
    known = dict(_options(form))
    options = {name: x for name, x in known.items() if name.startswith("--")}
    places = {name: x for name, x in known.items() if name not in options}
    given, loose = dict(_given(words)), _loose(words, options)
    _check_names(given, options, prog)
    if len(loose) > len(places) and not any(_several(x.hint) for x in places.values()):
        raise ValueError(
            f"{loose[len(places)]!r} is a word too many: it belongs to no option, as "
            f"each takes one value. `{prog} --help` tells of all that there are."
        )
    given |= dict(zip(places, loose, strict=False))
    for name, option in known.items():
        if name in given:
            _check_value(name, option.hint, given[name])
    for name, option in known.items():
        if name not in given and option.required and not _several(option.hint):
            said = option.help.rstrip(".")
            raise ValueError(
                f"`{name}` must be given{said and f': {said}'}. `{prog} --help` "
                "with the same words tells of all that can be."
            )


def _check_names(given: Iterable[str], known: Iterable[str], prog: str) -> None:
    """Refuses an option that there is not."""
    bare = {name.removeprefix("--"): name for name in known}
    for name in given:
        if name in bare.values():
            continue
        close = difflib.get_close_matches(name[2:], bare, n=1, cutoff=0.6)
        meant = f"Did you mean `{bare[close[0]]}`? " if close else ""
        raise ValueError(
            f"There is no option `{name}`. {meant}`{prog} --help` with the same words "
            "tells of all that there are."
        )


def _given(words: list[str]) -> Iterator[tuple[str, str | None]]:
    """The options and, where it is one word, the value of each."""
    for i, word in enumerate(words):
        if not word.startswith("--"):
            continue
        option, sign, value = word.partition("=")
        after: str | None = value
        if not sign:
            after = words[i + 1] if i + 1 < len(words) else None
            after = None if after is not None and after.startswith("--") else after
        yield option.replace("_", "-"), after


def _loose(words: list[str], options: Mapping[str, "_Option"]) -> list[str]:
    """The words that are neither an option nor its value."""
    out, takes = [], 0.0
    for word in words:
        if word.startswith("--"):
            name, sign, _ = word.replace("_", "-").partition("=")
            several = name in options and _several(options[name].hint)
            takes = 0 if sign else math.inf if several else 1
        elif takes > 0:
            takes -= 1
        else:
            out.append(word)
    return out


class _Option(NamedTuple):
    """One thing that may be given."""

    hint: Any
    help: str
    required: bool


def _options(form: Any, before: str = "--") -> Iterator[tuple[str, _Option]]:
    """What a form, or a function, may be given, by its name; of a function also what
    has its place, whose name has no dashes."""
    if not dataclasses.is_dataclass(form):
        for x in inspect.signature(form).parameters.values():
            required = x.default is x.empty
            name = x.name.upper() if required else f"{before}{x.name}"
            yield name.replace("_", "-"), _option(x.annotation, required=required)
        return
    for field in dataclasses.fields(form):
        if dataclasses.is_dataclass(field.type):
            yield from _options(field.type, f"{before}{field.name}.")
            continue
        called = getattr(_arg(field.type), "name", None) or field.name
        required = field.default is dataclasses.MISSING
        name = f"{before}{called}".replace("_", "-")
        yield name, _option(field.type, required=required)


def _arg(hint: Any) -> Any:
    """What tyro is told of it, last."""
    return next(reversed(getattr(hint, "__metadata__", ())), None)


def _option(hint: Any, *, required: bool) -> _Option:
    said = getattr(_arg(hint), "help", None) or ""
    annotated = getattr(hint, "__metadata__", None) is not None
    bare = typing.get_args(hint)[0] if annotated else hint
    return _Option(bare, said, required)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a hint is one of."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if union else (hint,)


def _several(hint: Any) -> bool:
    """Whether it is several words, or none."""
    return any(typing.get_origin(kind) in (tuple, list) for kind in _kinds(hint))


def _check_value(name: str, hint: Any, value: str | None) -> None:
    kinds = _kinds(hint)
    if _several(hint):
        return
    if value is None:
        raise ValueError(f"`{name}` is given no value. Write one after it.")
    if types.NoneType in kinds and value == "None":
        return
    may = [_reads(kind, value) for kind in kinds if kind is not types.NoneType]
    if not any(may):
        raise ValueError(f"`{name}` must be {_words(kinds)}, got {value!r}.")


def _reads(kind: Any, value: str) -> bool:
    if typing.get_origin(kind) is Literal:
        return value in map(str, typing.get_args(kind))
    reads: Mapping[Any, Any] = {int: int, float: float, bool: _SWITCHES.__getitem__}
    try:
        reads.get(kind, str)(value)
    except (ValueError, KeyError):
        return False
    return True


def _words(kinds: tuple[Any, ...]) -> str:
    names = {int: "a whole number", float: "a number", bool: "True or False"}
    out = []
    for kind in kinds:
        if typing.get_origin(kind) is Literal:
            out += [repr(x) for x in typing.get_args(kind)]
        elif kind in names:
            out.append(names[kind])
    return either(out)
