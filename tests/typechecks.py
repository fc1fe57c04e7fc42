"""Type checks of functions whose annotations name no axis, at a fraction of their time.

For each call `jaxtyping` binds the arguments, opens a scope for the names of axes, and
checks twice: before the function and after it. Where no axis has a name there is
nothing to hold against another, and `beartype` alone checks the same.
"""

import functools
import inspect
import types
from typing import get_args, get_origin, Literal, TypeVar

import jaxtyping
from beartype import BeartypeConf


_WHOLE = jaxtyping.jaxtyped
_CONF = BeartypeConf(violation_type=jaxtyping.TypeCheckError)


def names_axes(annotation):
    """Whether it names an axis or a structure, or may: text is not looked into."""
    if isinstance(annotation, str):
        return True
    if annotation is jaxtyping.PyTree or get_origin(annotation) is Literal:
        return False
    if isinstance(annotation, TypeVar):
        inside = (annotation.__bound__, *annotation.__constraints__)
    elif type(annotation).__module__.startswith("jaxtyping."):
        axes = getattr(annotation, "dim_str", "anything else of its own")
        return any(not (x.isdigit() or x == "...") for x in axes.split())
    else:
        # The arguments of a `Callable` are a list.
        inside = annotation if isinstance(annotation, list) else get_args(annotation)
    return any(map(names_axes, inside))


def jaxtyped(fn=None, *, typechecker):
    """What stands for `jaxtyping.jaxtyped` when the package is imported."""
    if fn is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if (
        not isinstance(fn, types.FunctionType)
        or inspect.isgeneratorfunction(fn)  # whose arguments would be looked at later
        or "is_bearable" in fn.__code__.co_names  # which looks at axes by itself
        or any(map(names_axes, fn.__annotations__.values()))
    ):
        return _WHOLE(fn, typechecker=typechecker)
    checked = typechecker(fn, conf=_CONF)

    def wrapper(*args, **kwargs):
        called = fn if jaxtyping.config.jaxtyping_disable else checked
        return called(*args, **kwargs)

    wrapper.__code__ = _of_a_decorator(wrapper.__code__)
    return functools.update_wrapper(wrapper, fn)


@functools.cache
def _of_a_decorator(code):
    """No line of a user's, to which a warning could point."""
    return code.replace(co_filename="<@jaxtyped>")
