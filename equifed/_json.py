"""JSON that every parser reads, which knows no infinity and no NaN: such a number is
written as its name, and read as the number again."""

import json
import math
from collections.abc import Mapping
from typing import Any


_NAMES = {str(x): x for x in (math.nan, math.inf, -math.inf)}


def to_json(x: Any, *, indent: int | None = None) -> str:
    """Numbers, NumPy's too, arrays of them, texts, lists and dictionaries as text."""
    try:
        return json.dumps(x, default=_plain, indent=indent, allow_nan=False)
    except ValueError:  # One of them is not finite.
        return json.dumps(_named(x), indent=indent, allow_nan=False)


def from_json(text: str) -> Any:
    """The same, back, with lists for arrays; a text that is the name of such a number
    counts as one."""
    found = json.loads(text)
    return _unnamed(found) if any(f'"{x}"' in text for x in _NAMES) else found


def _plain(x: Any) -> Any:
    return x.tolist()


def _named(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {name: _named(y) for name, y in x.items()}
    if isinstance(x, list | tuple):
        return list(map(_named, x))
    if isinstance(x, float) and not math.isfinite(x):
        return str(float(x))
    if x is None or isinstance(x, str | int | float):
        return x
    return _named(_plain(x))


def _unnamed(x: Any) -> Any:
    if isinstance(x, dict):
        return {name: _unnamed(y) for name, y in x.items()}
    if isinstance(x, list):
        return list(map(_unnamed, x))
    return _NAMES.get(x, x) if isinstance(x, str) else x
