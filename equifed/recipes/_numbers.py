"""The plain numbers of a part that is chosen by name: what a table, a file and a
command line have of it.

Which numbers a kind has, and what they mean, its own class says.
"""

import dataclasses
import inspect
from collections.abc import Container, Iterable, Mapping
from typing import Any, get_origin, Literal

from ._helps import helps


@dataclasses.dataclass(frozen=True)
class Number:
    """A number of a part: its type, its default, and what it is."""

    type: Any
    default: Any
    help: str


def numbers_of_class(cls: type) -> dict[str, Number]:
    """The numbers, and choices, that a class is made with."""
    words, out = helps(cls), {}
    # What is converted to an integer is one, whatever else may be given.
    fields = {x.name: x.type for x in dataclasses.fields(cls) if x.type is int}
    for parameter in inspect.signature(cls).parameters.values():
        default = parameter.default
        hint = fields.get(parameter.name, parameter.annotation)
        default = dataclasses.MISSING if default is parameter.empty else default
        plain = hint in (int, bool) or get_origin(hint) is Literal
        kind = hint if plain else float
        out[parameter.name] = Number(kind, default, words.get(parameter.name, ""))
    return out


def numbers_of_fields(cls: Any, names: Container[str]) -> dict[str, Number]:
    """Fields of a dataclass as numbers."""
    words = helps(cls)
    return {
        field.name: Number(field.type, field.default, words[field.name])
        for field in dataclasses.fields(cls)
        if field.name in names
    }


def check_given(part: Any, names: Iterable[str], known: Mapping[str, Number]) -> None:
    """Refuses a number that the part's kind has not, and one that it needs and that is
    `None`.

    **Arguments:**

    - `names`: the part's numbers of all kinds.
    - `known`: those of its own.
    """
    for name in names:
        value = getattr(part, name)
        if value is not None and name not in known:
            has = ", ".join(f"`{x}`" for x in known) or "no number"
            raise ValueError(
                f"`{name}` is no number of {part.kind!r}, which has {has}, got "
                f"{name}={value}."
            )
        if value is None and name in known:
            number = known[name]
            if number.default is dataclasses.MISSING:
                raise ValueError(
                    f"`{name}` must be given for {part.kind!r}: {number.help}"
                )


def given(part: Any, names: Iterable[str]) -> dict[str, Any]:
    """Those of the part's numbers that are given."""
    numbers = {name: getattr(part, name) for name in names}
    return {name: x for name, x in numbers.items() if x is not None}
