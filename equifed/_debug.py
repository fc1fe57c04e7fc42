"""Where a round stands that is run to find a mistake.

While debugging, nothing of the library is compiled, and an exception is given notes on
its way up: in which example, step, client and part it was raised. Elsewhere the notes
cost nothing, and are not made.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax


# What gives the name of a client, by its number; `None` outside of debugging.
_NAMES: contextvars.ContextVar[Callable[[int], str] | None] = contextvars.ContextVar(
    "names", default=None
)


def is_debugging() -> bool:
    return _NAMES.get() is not None


def by_number(client: int) -> str:
    """How to speak of a client of which only the number is known."""
    return f"client {client}"


def name_of(client: int) -> str:
    """How to speak of a client."""
    return (_NAMES.get() or by_number)(client)


@contextlib.contextmanager
def debugging(names: Callable[[int], str]) -> Iterator[None]:
    """Compiles nothing meanwhile, and adds notes to exceptions."""
    token = _NAMES.set(names)
    try:
        with jax.disable_jit():
            yield
    finally:
        _NAMES.reset(token)


@contextlib.contextmanager
def noted(what: Callable[[], str]) -> Iterator[None]:
    """Says where an exception came from, if somebody is debugging."""
    try:
        yield
    except Exception as error:
        if is_debugging():
            error.add_note(what())
        raise


def noted_in(part: Any, method: str) -> contextlib.AbstractContextManager[None]:
    """As `noted`, of a method of a part of an algorithm."""
    return noted(lambda: f"It was raised in `{type(part).__name__}.{method}`.")
