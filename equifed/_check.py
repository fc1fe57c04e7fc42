"""Whether an argument is what it has to be, and the words for when it is not.

Every number, count, flag and part that a user gives is checked here, in one way and
when it is given: an error is one sentence that says what was expected, what came, and
where it helps what to write. What is traced has no value to look at; a number out of
its domain is NaN then, and all that is computed from it.
"""

import functools
import inspect
import math
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, get_args, get_origin, TypeVar, Union

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from beartype.door import is_bearable
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ._tree import floating


Function = TypeVar("Function", bound=Callable)

_LENGTH = 60  # of what is shown as it stands


def shown(x: Any) -> str:
    """A few words on a value that was got, for an error: never a dump of it."""
    if inspect.isclass(x):
        return f"the class `{x.__name__}`"
    if isinstance(x, jax.Array | np.ndarray) and (
        isinstance(x, jax.core.Tracer) or x.ndim > 0
    ):
        return f"an array {x.dtype}[{','.join(map(str, x.shape))}]"
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return "a random key"
    if isinstance(x, jax.Array | np.ndarray | np.generic):
        x = np.asarray(x).item()
    if isinstance(x, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        return f"the function `{x.__name__}`"
    if x is None or isinstance(x, bool | int | float | complex | str | bytes):
        text = repr(x)
        return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}..."
    name = type(x).__name__
    article = "an" if name[0].lower() in "aeiou" else "a"
    if type(x) in (list, tuple, dict, set):
        simple = not _leaves(x) - {type(None), bool, int, float, str}
        text = repr(x) if simple and len(x) <= _LENGTH else ""
        if 0 < len(text) <= _LENGTH:
            return text
        return f"{article} `{name}` of {len(x)}"
    return f"{article} `{name}`"


def _leaves(x: Any) -> set[type]:
    values = x.values() if isinstance(x, Mapping) else x
    return {type(value) for value in values}


def check_kind(
    name: str, x: Any, kind: type | tuple[type, ...], remedy: str = ""
) -> None:
    """Refuses what is of none of these types; `remedy` is a sentence on what to do."""
    if not isinstance(x, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise TypeError(_message(name, _either(map(_of_type, kinds)), x, remedy))


def check_count(
    name: str, x: Any, least: int | None = 1, most: int | None = None
) -> int:
    """Returns the argument as an `int`, if it is one, and within its bounds."""
    if isinstance(x, bool) or not isinstance(x, int | np.integer):
        raise TypeError(f"`{name}` must be an integer, got {shown(x)}.")
    if least is not None and x < least:
        raise ValueError(f"`{name}` must be at least {least}, got {x}.")
    if most is not None and x > most:
        raise ValueError(f"`{name}` must be at most {most}, got {x}.")
    return int(x)


def check_seed(seed: Any) -> int:
    """Returns the seed as an `int`, if it is one that a Philox key can hold."""
    seed = check_count("seed", seed, least=None)
    if not 0 <= seed < 2**64:
        raise ValueError(f"`seed` must be between 0 and 2**64 - 1, got {seed}.")
    return seed


def check_flag(name: str, x: Any) -> bool:
    """Returns the argument as a `bool`, if it is one."""
    if not isinstance(x, bool | np.bool_):
        raise TypeError(f"`{name}` must be True or False, got {shown(x)}.")
    return bool(x)


def check_choice(name: str, x: Any, choices: Sequence[Any]) -> None:
    """Refuses what is none of a few values."""
    if not any(type(x) is type(choice) and x == choice for choice in choices):
        raise ValueError(
            f"`{name}` must be {_either(map(repr, choices))}, got {shown(x)}."
        )


def check_number(
    name: str,
    x: Any,
    *,
    least: float | int = -math.inf,
    strict: bool = False,
    below: float | int = math.inf,
    most: float | int = math.inf,
) -> None:
    """Refuses what is not one number, and one out of bounds, if it is known.

    It must be finite, `least` or more (more, if `strict`), less than `below`, and at
    most `most`.
    """
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        is_number = isinstance(x, int | float) and not isinstance(x, bool)
    else:
        is_number = jnp.issubdtype(dtype, jnp.floating) | jnp.issubdtype(
            dtype, jnp.integer
        )
    if not is_number:
        raise TypeError(f"`{name}` must be a number, got {shown(x)}.")
    if np.ndim(x) > 0:
        raise ValueError(
            f"`{name}` must be one number, got an array of shape {np.shape(x)}. For "
            "several at once build what takes it inside `eqx.filter_vmap`."
        )
    if isinstance(x, jax.core.Tracer):
        return
    x = float(x)
    if not math.isfinite(x):
        bound = "finite"
    elif x < least or (strict and x == least):
        bound = f"{'more than' if strict else 'at least'} {least:g}"
    elif x >= below:
        bound = f"less than {below:g}"
    elif x > most:
        bound = f"at most {most:g}"
    else:
        return
    raise ValueError(f"`{name}` must be {bound}, got {x:g}.")


def as_number(name: str, x: ArrayLike, **bounds: Any) -> Float[Array, ""]:
    """The argument as an array of the default floating dtype, if it is one number
    within the bounds of [`check_number`][]; if it is traced, NaN where it is not."""
    check_number(name, x, **bounds)
    number = floating(x)
    if not isinstance(number, jax.core.Tracer):
        return number
    least, below = bounds.get("least", -math.inf), bounds.get("below", math.inf)
    above = number > least if bounds.get("strict", False) else number >= least
    within = above & (number < below) & (number <= bounds.get("most", math.inf))
    return jnp.where(within, number, jnp.full_like(number, jnp.nan))


def number(name: str, **bounds: Any) -> Callable[[ArrayLike], Float[Array, ""]]:
    """[`as_number`][] as the converter of a field."""
    return lambda x: as_number(name, x, **bounds)


def checked(**remedies: str) -> Callable[[Function], Function]:
    """Checks the arguments of an entry point against its annotations when it is called.

    **Arguments:**

    - `remedies`: for arguments by name, a sentence on what to write instead.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        hints = {name: p.annotation for name, p in signature.parameters.items()}

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise TypeError(f"`{function.__name__}`: {error}.") from None
            for name, x in given.items():
                hint = hints[name]
                if hint is not inspect.Parameter.empty and not is_bearable(x, hint):
                    remedy = remedies.get(name, _REMEDIES.get(hint, ""))
                    raise TypeError(_message(name, expected(hint), x, remedy))
            return function(*args, **kwargs)

        return wrapper  # pyright: ignore[reportReturnType]

    return decorate


_REMEDIES = {PRNGKeyArray: "Make one with `jax.random.key(0)`."}


def expected(hint: Any) -> str:
    """What an annotation asks for, in words."""
    if hint == PRNGKeyArray:
        return "one random key"
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = [expected(arg) for arg in args if arg is not types.NoneType]
        return _either([*dict.fromkeys(parts)] + ["None"] * (types.NoneType in args))
    if inspect.isclass(origin) and issubclass(origin, Mapping) and len(args) == 2:
        return f"a dictionary of {expected(args[1]).partition(' ')[2]}s by name"
    if origin is Callable or hint is Callable:
        return "a function"
    if args and str(origin) == "typing.Literal":
        return _either(map(repr, args))
    return _of_type(hint if inspect.isclass(hint) else origin)


_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "text",
    types.NoneType: "None",
}


def _of_type(kind: Any) -> str:
    if kind in _WORDS:
        return _WORDS[kind]
    name = getattr(kind, "__name__", str(kind))
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} `{name}`"


def _either(words: Collection[str] | Any) -> str:
    words = list(words)
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _message(name: str, wanted: str, x: Any, remedy: str) -> str:
    if inspect.isclass(x) and not remedy:
        remedy = "Call it first."
    return f"`{name}` must be {wanted}, got {shown(x)}. {remedy}".rstrip()
