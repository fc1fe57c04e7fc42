"""Functions without names of axes are checked as `jaxtyping` checks them."""

# Types that are wrong on purpose.
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from beartype.door import is_bearable
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, TypeCheckError

from equifed import _tree, _warn

from . import typechecks


Bound = TypeVar("Bound", bound=Float[Array, " n"])
Plain = TypeVar("Plain")
FREE: Any = (
    *(int, None, str | None, dict[str, list[int]], Callable[[Plain], bool], Plain),
    *(Literal["a", "b"], Array, PRNGKeyArray, PyTree, Float[Array, ""]),
    *(Float[Array, "2 ..."], tuple[Float[np.ndarray, "3"], ...]),
)
NAMED: Any = (
    *("int", Float[Array, " n"], list[Float[Array, "a 2"]], Bound, Bound | None),
    *(Callable[[Float[Array, "n"]], int], PyTree[int], PyTree[int, "T"]),
    Float[Array, "*batch"],
)


def test_what_names_an_axis():
    assert not any(map(typechecks.names_axes, FREE))
    assert all(map(typechecks.names_axes, NAMED))


def checked(function):
    return typechecks.jaxtyped(typechecker=beartype)(function)


@checked
def half(x: int, *, name: str | None = None) -> int:
    return x // 2 if name is None else name


@checked
def total(x: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    return x.sum() + y.sum()


@checked
def scaled(x: Float[Array, "2 3"], by: Float[Array, ""]) -> Float[Array, "2 3"]:
    return x.sum() if by == 0 else x * by


@checked
def count(to: int) -> Iterator[int]:
    yield from range(to)


def test_wrong_types_are_refused(monkeypatch):
    x, one = jnp.ones((2, 3)), jnp.ones(())
    assert half(6) == 3
    assert list(count(2)) == [0, 1]
    assert scaled(x, one).shape == (2, 3)
    assert total(x[0], x[1]) == 6
    for wrong in (
        lambda: half("6"),
        lambda: half(6, name=7),
        lambda: half(6, name="what comes back"),
        lambda: count("2"),
        lambda: scaled(x.T, one),
        lambda: scaled(x, x),
        lambda: scaled(x, 0 * one),
        lambda: total(x[0], x[:, 0]),
    ):
        with pytest.raises(TypeCheckError):
            wrong()
    with pytest.raises(TypeError, match="unexpected keyword"):
        half(6, other=7)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert half(6, name="what comes back") == "what comes back"


@checked
def fits(x: Array) -> bool:
    return is_bearable(x, Float[Array, " n"])


@checked
def asks(x: Float[Array, " n"], y: Array) -> bool:
    return fits(y)


def test_who_looks_at_axes_has_names_of_its_own():
    assert asks(jnp.ones(2), jnp.ones(3))


def test_the_package_is_checked_in_this_way():
    assert _tree.kind_of.__code__.co_filename == "<@jaxtyped>"
    with pytest.raises(TypeCheckError):
        _warn.warn(3)


def test_a_warning_points_at_the_line_that_called():
    @checked
    def warns(x: int) -> None:
        _warn.warn("It is small.")

    with pytest.warns(UserWarning, match="small") as caught:
        warns(1)
    assert caught[0].filename == __file__
