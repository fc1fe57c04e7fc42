"""Names that a user types: one that there is not is told with those that there are."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from .._words import nearest, shown


Value = TypeVar("Value")


def found(kind: str, name: object, known: Mapping[str, Value]) -> Value:
    """What has this name.

    **Arguments:**

    - `kind`: what it is a name of: `"task"`.

    **Raises:**

    `ValueError` if there is none, with the nearest name and all that there are.
    """
    check_name(kind, name, known)
    return known[str(name)]


def check_name(kind: str, name: object, known: Iterable[str]) -> None:
    """Refuses a name that is not among those known."""
    known = list(known)
    if name in known:
        return
    raise ValueError(
        f"`{kind}` must be the name of one, got {shown(name)}. {nearest(name, known)}"
        f"There are: {_those(known)}."
    )


def _those(names: list[str], room: int = 480) -> str:
    """All of the names; of very many the families alone, or the first ones."""
    text = ", ".join(names)
    if len(text) <= room:
        return text
    families = dict.fromkeys(name.partition("-")[0] for name in names)
    some = [f"{family}-..." for family in families]
    rest = f" ({len(names)} in all: see `equifed list`)"
    if len(families) == len(names):
        some = [*text[: room - len(rest)].split(", ")[:-1], "..."]
    return ", ".join(some) + rest
