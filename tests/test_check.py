"""Arguments are checked in one place, in one sentence."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jaxtyping import PRNGKeyArray

import equifed as eqf
from equifed import _check as check, _words as words_of


KEY = jr.key(0)


@pytest.mark.parametrize(
    "value, words",
    (
        (1, "1"),
        (np.float32(2.5), "2.5"),
        (jnp.asarray(3), "3"),
        ("text", "'text'"),
        ("x" * 1000, "'" + "x" * 59 + "..."),
        (None, "None"),
        ([1, 2], "[1, 2]"),
        ([], "[]"),
        (list(range(1000)), "a `list` of 1000"),
        ({"a": jnp.ones(3)}, "a `dict` of 1"),
        (jnp.ones((3, 2)), "an array float32[3,2]"),
        (KEY, "a random key"),
        (jr.split(KEY), "an array key<fry>[2]"),
        (eqf.Median, "the class `Median`"),
        (eqf.Median(), "a `Median`"),
        (eqf.data.Epochs(1, batch_size=2), "an `Epochs`"),
        (eqf.data.digits(), "a `FederatedDataset`"),
        (optax.sgd, "the function `sgd`"),
        (optax.sgd(0.1), "a `GradientTransformationExtraArgs`"),
    ),
)
def test_what_was_got_is_told_in_a_few_words(value, words):
    assert words_of.shown(value) == words


@pytest.mark.parametrize(
    "hint, words",
    (
        (int, "an integer"),
        (int | None, "an integer or None"),
        (PRNGKeyArray, "one random key"),
        (eqf.Executor | None, "an `Executor` or None"),
        (Mapping[str, eqf.Executor], "a dictionary of `Executor`s by name"),
        (Callable[[int], int], "a function"),
        (Literal["a", "b"], "'a' or 'b'"),
    ),
)
def test_annotations_in_words(hint, words):
    assert words_of.expected(hint) == words


def checked_function():
    @check.checked(count="Count again.")
    def function(count: int, size: int | None = None, *, key: PRNGKeyArray):
        return count, size, key

    return function


@pytest.mark.parametrize(
    "args, kwargs, message",
    (
        (("1",), {"key": KEY}, "`count` must be an integer, got '1'. Count again."),
        ((int,), {"key": KEY}, "`count` must be an integer, got the class `int`. Coun"),
        ((1, "2"), {"key": KEY}, "`size` must be an integer or None, got '2'."),
        ((1,), {"key": 0}, "`key` must be one random key, got 0. Make one with `jax.r"),
        ((1,), {"key": jr.split(KEY)}, "`key` must be one random key, got an array ke"),
        ((1,), {}, "`function`: missing a required argument: 'key'."),
        ((1, 2, 3), {"key": KEY}, "`function`: too many positional arguments."),
        ((1,), {"key": KEY, "kye": 1}, "`function`: got an unexpected keyword argume"),
    ),
)
def test_an_entry_point_says_what_it_wants(args, kwargs, message):
    with pytest.raises(TypeError) as error:
        checked_function()(*args, **kwargs)
    assert str(error.value).startswith(message)
    assert error.value.__cause__ is None


def test_an_entry_point_takes_what_it_wants():
    function = checked_function()
    assert function(1, key=KEY) == (1, None, KEY)
    assert function.__name__ == "function"
    # NumPy's numbers are numbers.
    assert function(*(np.int64(1), np.int32(2)), key=KEY) == (1, 2, KEY)  # pyright: ignore
    # Within a transformation as well.
    keys = jax.vmap(lambda key: function(1, key=key)[2])(jr.split(KEY))
    assert keys.shape == (2,)


@pytest.mark.parametrize("value", (True, np.bool_(1), "1", None, 1j, jnp.ones(1) > 0))
def test_no_number(value):
    with pytest.raises(TypeError, match="`x` must be a number, got "):
        check.check_number("x", value)


@pytest.mark.parametrize(
    "value, bounds, message",
    (
        (np.nan, {}, "finite, got nan"),
        (jnp.inf, {}, "finite, got inf"),
        (-np.inf, {}, "finite, got -inf"),
        (np.nan, {"least": 0}, "finite, got nan"),
        (-1, {"least": 0}, "at least 0, got -1"),
        (0, {"least": 0, "strict": True}, "more than 0, got 0"),
        (np.float32(1), {"below": 1}, "less than 1, got 1"),
        (1.5, {"most": 1}, "at most 1, got 1.5"),
        (np.ones(2), {}, "one number, got an array of shape .*filter_vmap"),
    ),
)
def test_a_number_out_of_bounds(value, bounds, message):
    with pytest.raises(ValueError, match=f"`x` must be {message}"):
        check.check_number("x", value, **bounds)


def test_a_traced_number_out_of_bounds_is_nan():
    convert = check.number("x", least=0, strict=True, most=1)
    values = jnp.array([-1.0, 0.0, 0.5, 1.0, 2.0, jnp.nan])
    got = jax.vmap(convert)(values)
    np.testing.assert_array_equal(got, [np.nan, np.nan, 0.5, 1.0, np.nan, np.nan])
    assert convert(1) == 1.0
    assert convert(1).dtype == jnp.result_type(float)


def test_counts_and_choices():
    assert check.check_count("x", np.int64(3)) == 3
    assert check.check_seed(2**64 - 1) == 2**64 - 1
    check.check_choice("x", 2, (1, 2))
    check.check_kind("x", 1, (int, str))
    for call, kind, message in (
        (lambda: check.check_count("x", True), TypeError, "an integer, got True"),
        (lambda: check.check_count("x", 1.0), TypeError, "an integer, got 1.0"),
        (lambda: check.check_count("x", 0), ValueError, "at least 1, got 0"),
        (lambda: check.check_count("x", 9, most=8), ValueError, "at most 8, got 9"),
        (lambda: check.check_seed(-1), ValueError, "between 0 and"),
        (lambda: check.check_seed(0.5), TypeError, "an integer, got 0.5"),
        (lambda: check.check_choice("x", True, (1, 2)), ValueError, "1 or 2, got True"),
        (lambda: check.check_kind("x", 1.0, (int, str), "Do."), TypeError, "Do.$"),
    ):
        with pytest.raises(kind, match=message):
            call()
