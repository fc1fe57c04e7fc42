"""Implementations of abstract methods have the types that these say.

What a method takes and returns is written once, in the abstract class; an override
repeats the names alone. Where types are checked while a program runs, as in the tests
by jaxtyping's import hook, an override without annotations would be the one thing that
is not checked. So it is given those of the method that it overrides.

Outside of the library nothing is wrapped: what parts of one's own return is looked at
in `_contract.py`, in words.
"""

import inspect
from typing import Any

from beartype import beartype
from jaxtyping import jaxtyped


def inherit_types(cls: type) -> None:
    """Gives the overrides that a class defines the types of what they override.

    Abstract classes call it from their `__init_subclass__`.
    """
    if not _CHECKS or not cls.__module__.startswith("equifed."):
        return
    for name, method in list(vars(cls).items()):
        if inspect.isfunction(method):
            above = (vars(base).get(name) for base in cls.__mro__[1:])
            abstract = next(filter(_is_abstract, above), None)
            if abstract is not None:
                setattr(cls, name, _typed(method, abstract))


def _typed(method: Any, abstract: Any) -> Any:
    own, given = inspect.unwrap(method), inspect.unwrap(abstract).__annotations__
    names = {*inspect.signature(own).parameters, "return"}
    said = {name: kind for name, kind in given.items() if name in names}
    own.__annotations__ = said | own.__annotations__
    return jaxtyped(own, typechecker=beartype)


def _is_abstract(method: Any) -> bool:
    return inspect.isfunction(method) and getattr(method, "__isabstractmethod__", False)


# The import hook, if it is on, has wrapped all functions of the library.
_CHECKS = getattr(inherit_types, "__wrapped__", None) is not None
