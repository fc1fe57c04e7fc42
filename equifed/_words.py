"""The words of errors: what an argument has to be, and what came instead.

A value is shown in a few words and never dumped, and an annotation is spelled out as a
person would say it, so that an error is one sentence.
"""

import difflib
import inspect
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin, Literal, Union

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import ArrayLike, DTypeLike, PRNGKeyArray


_LENGTH = 60  # of what is shown as it stands


def shown(x: Any) -> str:
    """A few words on a value that was got, for an error: never a dump of it."""
    if inspect.isclass(x):
        return f"the class `{x.__name__}`"
    unknown = isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct)
    if unknown or (isinstance(x, jax.Array | np.ndarray) and x.ndim > 0):
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


UNIONS = (Union, types.UnionType)


def message(name: str, wanted: str, x: Any, remedy: str = "") -> str:
    """One sentence, and perhaps a second one on what to do."""
    if inspect.isclass(x) and not remedy:
        remedy = "Call it first."
    return f"`{name}` must be {wanted}, got {shown(x)}. {remedy}".rstrip()


def expected(hint: Any) -> str:
    """What an annotation asks for, in words."""
    origin, args = get_origin(hint), get_args(hint)
    if hint == ArrayLike:
        return "a number"
    if hint == PRNGKeyArray:
        return "one random key"
    if origin in UNIONS:
        return _of_union(args)
    if origin is Callable or hint is Callable:
        return "a function"
    if origin is Literal:
        return either(map(repr, args))
    if inspect.isclass(origin) and issubclass(origin, Mapping) and len(args) == 2:
        things = "" if args[1] is Any else f" of {_plural(expected(args[1]))}"
        return f"a dictionary{things} by name"
    if inspect.isclass(origin) and issubclass(origin, Sequence) and args:
        kind = "tuple" if origin is tuple else "list"
        return f"a {kind} of {_plural(expected(args[0]))}"
    dims = getattr(hint, "dim_str", None)
    if dims is not None:
        return _of_array(hint.__name__.partition("[")[0], dims.strip())
    return of_type(hint if inspect.isclass(hint) else origin)


def _of_union(args: tuple[Any, ...]) -> str:
    parts = []
    keys = set(get_args(PRNGKeyArray))
    if keys <= set(args):
        parts.append("one random key")
        args = tuple(arg for arg in args if arg not in keys)
    # Types for whatever can be made an array, or a dtype, are unions of many.
    for hint, words in ((ArrayLike, "a number"), (DTypeLike, "a dtype")):
        members = set(get_args(hint))
        if members <= set(args):
            args = tuple(arg for arg in args if arg not in members)
            parts.append("an array of numbers" if Sequence in args else words)
    if "an array of numbers" in parts:
        args = tuple(arg for arg in args if arg is not Sequence)
    parts = [*dict.fromkeys([*parts, *map(expected, args)])]
    return either(
        [part for part in parts if part != "None"] + ["None"] * ("None" in parts)
    )


_KINDS = {"Float": "floating-point numbers", "Bool": "booleans", "Shaped": "numbers"}


def _of_array(kind: str, dims: str) -> str:
    kind = _KINDS.get(kind, "integers")
    return f"an array of {kind}, `[{dims}]`" if dims else "one number, as an array"


_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "text",
    types.NoneType: "None",
    jax.Array: "an array",
    np.ndarray: "an array of NumPy's",
    os.PathLike: "a path",
    Mapping: "a dictionary",
    Sequence: "a list",
    optax.GradientTransformation: "an Optax optimiser",
    optax.MultiSteps: "an Optax optimiser",  # in all but its type
}

# Where the name of a type alone would leave one looking for what to write.
_EXAMPLES = {
    "AbstractAggregator": "WeightedMean()",
    "AbstractBatching": "Epochs(1, batch_size=20)",
    "AbstractCompressor": "TopK(0.01)",
    "AbstractCorrection": "Proximal(0.1)",
    "AbstractLeafwise": "UniformQuantizer(4)",
    "AbstractMomentEstimator": "Shrinkage(0.01)",
    "AbstractPosteriorSampler": "IASG(optax.sgd(0.1))",
    "AbstractSampler": "UniformSampler(10, seed=0)",
    "AbstractServer": "OptaxServer(optax.sgd(1.0))",
    "LocalSGD": "LocalSGD(loss, optax.sgd(0.1), batching)",
}


def of_type(kind: Any) -> str:
    """A thing of some type, in words."""
    if kind in _WORDS:
        return _WORDS[kind]
    name = getattr(kind, "__name__", str(kind))
    words = f"{'an' if name[0].lower() in 'aeiou' else 'a'} `{name}`"
    if name in _EXAMPLES:
        return f"{words}, `{_EXAMPLES[name]}` for example"
    return words


def _plural(words: str) -> str:
    if words == "text":
        return "names"
    noun = words.removeprefix("a ").removeprefix("an ").partition(", ")[0]
    if noun == "dictionary by name":
        return "dictionaries by name"
    noun, of, rest = noun.partition(" of ")
    return f"{noun}s{of}{rest}"


def first_line(error: BaseException) -> str:
    """The beginning of an error's own text, without the full stop at its end."""
    line = (str(error).strip() or "no message").splitlines()[0].strip()
    return (line if len(line) <= 200 else f"{line[:197]}...").rstrip(".")


def listed(names: Iterable[Any]) -> str:
    """Names for an error: a few of them, however many and long they are."""
    names = [x if len(x) <= 30 else f"{x[:30]}..." for x in map(str, names)]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more or "none"


def nearest(name: object, known: Iterable[str]) -> str:
    """A question after the names that begin with one which there is not, or the name
    that is most like it, with a space behind it; nothing if none is."""
    known = list(known)
    near = [x for x in known if x.startswith(f"{name}-")]
    near = near or difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"Did you mean {either(map(repr, near))}? " if near else ""


def either(words: Iterable[str]) -> str:
    """`a, b or c`."""
    words = list(words)
    if len(words) < 2:
        return "".join(words)
    comma = "," if "for example" in words[-2] else ""
    return f"{', '.join(words[:-1])}{comma} or {words[-1]}"
