"""Whether an argument is what it has to be, and the words for when it is not.

Every number, count, flag and part that a user gives is checked here, in one way and
when it is given: an error is one sentence that says what was expected, what came, and
where it helps what to write. What is traced has no value to look at; a number out of
its domain is NaN then, and all that is computed from it.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_origin, Literal, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from beartype import BeartypeConf, FrozenDict
from beartype.door import is_bearable
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ._tree import floating
from ._words import either, expected, message, of_type, shown, UNIONS


Function = TypeVar("Function", bound=Callable)

# NumPy's numbers are numbers.
_NUMPY = BeartypeConf(
    hint_overrides=FrozenDict(
        {
            int: int | np.integer,
            float: float | int | np.floating | np.integer,
            bool: bool | np.bool_,
        }
    )
)


def check_kind(
    name: str, x: Any, kind: type | tuple[type, ...], remedy: str = ""
) -> None:
    """Refuses what is of none of these types; `remedy` is a sentence on what to do."""
    if not isinstance(x, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise TypeError(message(name, either(map(of_type, kinds)), x, remedy))


def check_count(
    name: str, x: Any, least: int | None = 1, most: int | None = None
) -> int:
    """Returns the argument as an `int`, if it is one, and within its bounds."""
    if not is_known_integer(x):
        raise TypeError(f"`{name}` must be an integer, got {shown(x)}.")
    x = int(x)
    if least is not None and x < least:
        raise ValueError(f"`{name}` must be at least {least}, got {x}.")
    if most is not None and x > most:
        raise ValueError(f"`{name}` must be at most {most}, got {x}.")
    return x


def is_known_integer(x: Any) -> bool:
    """Whether it is an integer, of Python's, NumPy's or JAX's, whose value is known."""
    if isinstance(x, int | np.integer):
        return not isinstance(x, bool)
    is_one = isinstance(x, jax.Array | np.ndarray) and x.ndim == 0
    is_known = is_one and not isinstance(x, jax.core.Tracer)
    return is_known and jnp.issubdtype(x.dtype, jnp.integer)


def known_int(x: Any) -> Any:
    """Converts what may be an array to an `int`, which no program takes for an input;
    what is no integer is left for a check to refuse."""
    return int(x) if is_known_integer(x) else x


def check_sizes(name: str, x: Any) -> tuple[int, int]:
    """Returns one or two integers of at least 1 as two."""
    pair = (x, x) if is_known_integer(x) else x
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise ValueError(f"`{name}` must be one or two integers, got {shown(x)}.")
    height, width = (check_count(name, size) for size in pair)
    return height, width


def check_seed(seed: Any) -> int:
    """Returns the seed as an `int`, if it is one that a Philox key can hold."""
    seed = check_count("seed", seed, least=None)
    if not 0 <= seed < 2**64:
        raise ValueError(f"`seed` must be between 0 and 2**64 - 1, got {seed}.")
    return seed


def seed_key(seed: int) -> PRNGKeyArray:
    """The key of such a seed, of which JAX's own may have 32 bits."""
    key = jax.random.key(np.uint32(seed % 2**32))
    return jax.random.fold_in(key, seed >> 32) if seed >> 32 else key


def check_choice(name: str, x: Any, choices: Sequence[Any]) -> None:
    """Refuses what is none of a few values."""
    if not any(type(x) is type(choice) and x == choice for choice in choices):
        raise ValueError(
            f"`{name}` must be {either(map(repr, choices))}, got {shown(x)}."
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


def within(name: str, x: ArrayLike, **bounds: Any) -> ArrayLike:
    """The number as it came, if it is one within the bounds of [`check_number`][]; if
    it is traced, NaN where it is not."""
    check_number(name, x, **bounds)
    if not isinstance(x, jax.core.Tracer):
        return x
    number = floating(x)
    least, below = bounds.get("least", -math.inf), bounds.get("below", math.inf)
    above = number > least if bounds.get("strict", False) else number >= least
    inside = above & (number < below) & (number <= bounds.get("most", math.inf))
    return jnp.where(inside, number, jnp.full_like(number, jnp.nan))


def as_number(name: str, x: ArrayLike, **bounds: Any) -> Float[Array, ""]:
    """[`within`][], as an array of the default floating dtype."""
    return floating(within(name, x, **bounds))


def number(name: str, **bounds: Any) -> Callable[[ArrayLike], Float[Array, ""]]:
    """[`as_number`][] as the converter of a field."""
    return lambda x: as_number(name, x, **bounds)


def checked(**remedies: str) -> Callable[[Function], Function]:
    """Checks the arguments of an entry point or of a class against its annotations when
    it is called.

    **Arguments:**

    - `remedies`: for arguments by name, a sentence on what to write instead.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        parameters = signature.parameters.values()
        hints = {
            p.name: p.annotation
            for p in parameters
            if not isinstance(p.annotation, str)
            and p.annotation is not p.empty
            and p.kind is not p.VAR_KEYWORD
        }
        several = {p.name for p in parameters if p.kind is p.VAR_POSITIONAL}
        # `FedAvg`, rather than `__init__`.
        own = function.__qualname__.rpartition("<locals>.")[2]
        own = own.removesuffix(".__init__")

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"`{own}`: {error}.") from None
            for name, x in bound.arguments.items():
                if name not in hints:
                    continue
                for one in x if name in several else (x,):
                    check_hint(name, one, hints[name], remedies.get(name))
            for name, x in bound.arguments.items():
                is_count = int in _members(hints.get(name)) and is_known_integer(x)
                if is_count and not isinstance(x, int):
                    bound.arguments[name] = int(x)  # it may be static, or a size
            return function(*bound.args, **bound.kwargs)

        return wrapper  # pyright: ignore[reportReturnType]

    return decorate


def check_hint(name: str, x: Any, hint: Any, remedy: str | None = None) -> None:
    """Checks that an argument is what its annotation says."""
    if not _fits(x, hint):
        words = message(name, expected(hint), x, remedy or _remedy(hint))
        raise _kind_of_error(x, hint)(words)


def _fits(x: Any, hint: Any) -> bool:
    if isinstance(x, np.generic):
        x = x.item()  # a NumPy integer is an integer
    members = _members(hint)
    if int in members and is_known_integer(x):
        return True
    if isinstance(x, bool) and int in members and bool not in members:
        return False  # Python takes a flag for the number 0 or 1.
    if isinstance(x, int) and float in members:
        return True
    for member in members:
        if get_origin(member) is Mapping and isinstance(x, Mapping):
            # Beartype looks at one item.
            kind = get_args(member)[1]
            return all(is_bearable(v, kind, conf=_NUMPY) for v in x.values())
    if not is_bearable(x, hint, conf=_NUMPY):
        return False
    is_key = set(get_args(PRNGKeyArray)) <= set(members)
    return not is_key or x is None or is_key_of_the_default_kind(x)


def is_key_of_the_default_kind(key: PRNGKeyArray) -> bool:
    """Whether an old-style key has as many numbers as JAX will take it for."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return True
    return key.shape == jax.eval_shape(lambda: jax.random.PRNGKey(0)).shape


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in UNIONS else (hint,)


def _kind_of_error(x: Any, hint: Any) -> type[Exception]:
    choices = [get_args(m) for m in _members(hint) if get_origin(m) is Literal]
    kinds = [type(choice) for some in choices for choice in some]
    return ValueError if type(x) in kinds else TypeError


def _remedy(hint: Any) -> str:
    if set(get_args(PRNGKeyArray)) <= set(_members(hint)):
        return "Make one with `jax.random.key(0)`."
    if optax.GradientTransformation in _members(hint):
        return "If this is a learning rate, write `optax.sgd(learning_rate)`."
    return ""
