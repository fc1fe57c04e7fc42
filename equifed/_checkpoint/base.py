"""The base of a checkpoint: what is frozen of a model, which it does not hold.

That came from elsewhere, does not change, and is most of a model that adapters are
trained beside. So a checkpoint has its hash in its place, and who goes on from it has
the base.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from .._roles import Roles
from .content import content, has_all_numbers


FROZEN = "model, frozen"  # in a fingerprint
REST = ".rest"  # of a state, where its frozen leaves lie


def base_of(leaves: dict[str, Any], roles: Roles | None) -> dict[str, Any]:
    """The frozen leaves of a state by their paths. None of them if several processes
    share one, each of which has a part: nobody could tell another from it."""
    frozen = () if roles is None else roles.of("frozen")
    found = {f"{REST}{path}" for path in frozen} & leaves.keys()
    base = {path: x for path, x in leaves.items() if path in found}
    return base if all(map(has_all_numbers, base.values())) else {}


def about_base(
    base: dict[str, Any], roles: Roles | None, fingerprint: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What a checkpoint says of it."""
    digits = (fingerprint or {}).get(FROZEN)
    # It is read once in a training, not at each checkpoint.
    if digits is None or roles is None or len(base) < len(roles.of("frozen")):
        digits = _hash(base)
    return {"paths": list(base), "hash": digits}


def left_out(about: dict[str, Any]) -> list[str]:
    """The paths of what a checkpoint does not hold."""
    return about["base"]["paths"] if "base" in about else []


def check_base(
    path: pathlib.Path, about: dict[str, Any], leaves: dict[str, Any]
) -> None:
    """Refuses a state whose base is not the one that a checkpoint was made beside."""
    paths = left_out(about)
    if not paths:
        return
    missing = [x for x in paths if x not in leaves]
    if missing:
        raise ValueError(
            f"The checkpoint `{path}` does not hold what was frozen, and the state has "
            f"no `{missing[0]}`. Give a state of the same model and roles."
        )
    now, made_with = _hash({x: leaves[x] for x in paths}), about["base"]["hash"]
    if now != made_with:
        raise ValueError(other_base(path, made_with, now))


def _hash(base: dict[str, Any]) -> str:
    return content({path.removeprefix(REST): x for path, x in base.items()})


def other_base(path: pathlib.Path | str, made_with: str, now: str) -> str:
    return (
        f"The checkpoint `{path}` is of another base: the hash of what is frozen of "
        f"its model begins with {made_with}, and that of this model with {now}. Give "
        "the base that it was trained on, or another directory."
    )
