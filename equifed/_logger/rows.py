"""The rows that `JSONLines` writes, and how they are known again.

A file with anything else is somebody else's. What a kill left of a row is known, too.
"""

import json
import math
import numbers
import pathlib
import re
from collections.abc import Mapping
from typing import Any, SupportsFloat

from .._words import listed


# What a kill may have kept from a row: with one of these ends it is a row again.
_ENDS = ["", "}", ' "a": 1}', '"a": 1}', '": 1}', ": 1}", " 1}"]
_ENDS += ['nan"}', 'an"}', 'n"}', 'inf"}', 'nf"}', 'f"}', '"}']
_ENDS += ['\\": 1}', *("0" * n + '": 1}' for n in (1, 2, 3, 4))]  # in an escape


def text_of(round: int, metrics: Mapping[str, SupportsFloat]) -> str:
    """A row, with the end of its line."""
    values = {name: _json_number(x) for name, x in metrics.items()}
    line = {"round": int(round)} | values | {"round": int(round)}
    return json.dumps(line, allow_nan=False) + "\n"


def rows_in(path: pathlib.Path) -> dict[int, bytes]:
    """The rows of a file by their rounds, each as it stands there.

    **Raises:**

    `ValueError` if there is anything else in it.
    """
    if not path.is_file():
        return {}
    rows: dict[int, bytes] = {}
    last = -math.inf
    *lines, rest = path.read_bytes().split(b"\n")
    for line in lines:
        number = _round_of(line)
        if number is None or number <= last:
            raise _not_ours(path, line)
        rows[number], last = line + b"\n", number
    number = _round_of(rest)
    if number is not None and number > last:
        rows[number] = rest  # Only the end of its line is missing.
    elif not _is_half_a_row(rest):
        raise _not_ours(path, rest)
    return rows


def whole(row: bytes) -> bytes:
    """A row with the end of its line."""
    return row.removesuffix(b"\n") + b"\n"


def check_of_this_run(path: pathlib.Path, rows: Mapping[int, bytes], text: str) -> None:
    """Refuses to go on with rows that share no metric with the next one."""
    names = json.loads(text).keys() - {"round"}
    had = {x: None for row in rows.values() for x in json.loads(row) if x != "round"}
    if rows and names.isdisjoint(had) and (names or had):
        raise ValueError(
            f"`{path}` is of something else: its rows have {listed(had)}, and this run "
            f"has {listed(sorted(names))}. Give another path, or move that file away."
        )


def _not_ours(path: pathlib.Path, line: bytes) -> ValueError:
    return ValueError(
        f"`{path}` is not a file that `JSONLines` wrote: it has the line "
        f"{line[:80]!r}. Give another path, or move that file away."
    )


def _round_of(line: bytes) -> int | None:
    """The round of a row, if it is one that `log` wrote, to the letter."""
    try:
        row = json.loads(line)
        number = row["round"]
        if next(iter(row)) != "round" or type(number) is not int:
            return None
        same = json.dumps(row, allow_nan=False).encode() == line
    except (ValueError, TypeError, KeyError):
        return None
    return number if same and all(map(_is_number, row.values())) else None


def _is_number(x: Any) -> bool:
    return type(x) in (int, float) or x in ("nan", "inf", "-inf")


def _is_half_a_row(rest: bytes) -> bool:
    """Whether a row may have begun like this."""
    if b'{"round": '.startswith(rest):
        return True
    rest = re.sub(rb": [-+.e0-9]*$", b": 1", rest)  # of any number
    return any(_round_of(rest + end.encode()) is not None for end in _ENDS)


def _json_number(x: SupportsFloat) -> int | float | str:
    if isinstance(x, numbers.Integral):
        return int(x)
    x = float(x)
    return x if math.isfinite(x) else str(x)
