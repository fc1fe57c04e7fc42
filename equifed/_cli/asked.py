"""What the words of a command line lack, or have wrong, in one sentence for each.

tyro says it as well, in a box of its own that lists all that a command takes; so the
words are looked at before it is given them.
"""

import argparse
import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

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


def check_words(form: type, words: list[str]) -> None:
    """Refuses words without what a form must be given, or with what is no value of it.

    **Raises:**

    `ValueError`, for the first of them.
    """
    if {"-h", "--help"} & set(words):
        return
    given, fields = dict(_given(words)), dict(_fields(form))
    for name, field in fields.items():
        if name in given:
            _check_value(name, _hint(field), given[name])
    for name, field in fields.items():
        if name not in given and field.default is dataclasses.MISSING:
            said = _help(field)
            raise ValueError(
                f"`{name}` must be given{said and f': {said}'}. `equifed run --help` "
                "with the same words tells of all that can be."
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


def _fields(form: Any, before: str = "--") -> Iterator[tuple[str, Any]]:
    """The options of a form, and their fields."""
    for field in dataclasses.fields(form):
        if dataclasses.is_dataclass(field.type):
            yield from _fields(field.type, f"{before}{field.name}.")
        else:
            named = _arg(field)
            name = getattr(named, "name", None) or field.name
            yield f"{before}{name}".replace("_", "-"), field


def _arg(field: Any) -> Any:
    return next(iter(getattr(field.type, "__metadata__", ())), None)


def _help(field: Any) -> str:
    return (getattr(_arg(field), "help", None) or "").rstrip(".")


def _hint(field: Any) -> Any:
    has = getattr(field.type, "__metadata__", None)
    return typing.get_args(field.type)[0] if has else field.type


def _check_value(name: str, hint: Any, value: str | None) -> None:
    origin = typing.get_origin(hint)
    kinds = typing.get_args(hint) if origin in (types.UnionType, typing.Union) else ()
    kinds = kinds or (hint,)
    if any(typing.get_origin(kind) in (tuple, list) for kind in kinds):
        return  # of several words, or none
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
