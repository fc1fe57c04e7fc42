"""What a function is, so that another process knows it again.

A user's function is its instructions, constants and names: neither where it stands in a
file nor what it is called by matters. A library's function is its name. What either
holds (its closure and its defaults) and, for a user's, what it reads from its module,
is returned as values, for others to look at.
"""

import dis
import functools
import inspect
import pathlib
import sys
import sysconfig
import types
from typing import Any


_INSTALLED = tuple(sysconfig.get_path(x) for x in ("purelib", "platlib", "stdlib"))
_INSTALLED += (str(pathlib.Path(__file__).parents[1]),)  # us, wherever we are
# So are those of another environment that this Python was told to look at.
_FOLDERS = {"site-packages", "dist-packages"}

# Written by the `dataclass` decorator, for fields that are looked at themselves.
_GENERATED = ("__init__", "__repr__", "__eq__", "__hash__", "__replace__")
# A function that calls one of these on what it holds, notes something there.
_WRITES = ("append", "add", "extend", "insert", "update", "setdefault", "pop")
_WRITES += ("clear", "remove", "discard", "popitem", "appendleft", "popleft")
_STORES = ("STORE_SUBSCR", "STORE_ATTR", "DELETE_SUBSCR", "DELETE_ATTR", "STORE_SLICE")


@functools.lru_cache(maxsize=1024)
def is_library(module: str | None) -> bool:
    """Whether a module was installed, rather than written for the experiment."""
    root = (module or "__main__").partition(".")[0]
    if root == "__main__":
        return False
    if root in sys.stdlib_module_names or root == "equifed":
        return True
    return _is_installed(getattr(sys.modules.get(root), "__file__", None) or "")


def is_library_code(code: types.CodeType) -> bool:
    """Whether a decorator of a library wrote this function around another one."""
    return code.co_filename.startswith("<@") or _is_installed(code.co_filename)


def _is_installed(file: str) -> bool:
    parts = pathlib.PurePath(file).parts
    return file.startswith(_INSTALLED) or not _FOLDERS.isdisjoint(parts)


def instructions(code: types.CodeType, doc: str | None = None) -> tuple[Any, ...]:
    """What there is to run, without lines and files."""
    constants = list(code.co_consts)
    if doc is not None and constants[:1] == [doc]:
        constants[0] = None  # the docstring
    return (
        code.co_code,
        tuple(
            instructions(x) if isinstance(x, types.CodeType) else x for x in constants
        ),
        (code.co_names, code.co_freevars),
        (code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount),
        code.co_flags,
    )


def of_function(function: types.FunctionType) -> tuple[Any, ...]:
    """A function without the values that it holds."""
    if is_library(function.__module__):
        return (function.__module__, function.__qualname__)
    return (function.__name__, instructions(function.__code__, function.__doc__))


def held(function: types.FunctionType) -> dict[str, Any]:
    """The values that a function holds or reads, by the names it has for them.

    Left out is what it writes to itself: a counter is no part of an experiment.
    """
    code = function.__code__
    written = _written(code)
    found = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:
            continue  # not assigned yet
        if name not in written:
            found[name] = value
    defaults = function.__defaults__ or ()
    arguments = code.co_varnames[: code.co_argcount]
    found |= dict(
        zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)
    )
    found |= function.__kwdefaults__ or {}
    if not is_library(function.__module__):
        for name in sorted(_globals(code) - written):
            value = function.__globals__.get(name)
            if _is_read(value):
                found[name] = value
    return found


def of_class(cls: type) -> tuple[Any, ...]:
    """A class: by name if it is a library's, else with the code of its methods."""
    if is_library(cls.__module__):
        return (cls.__module__, cls.__qualname__)
    methods: list[Any] = [cls.__name__]
    for kind in cls.__mro__:
        if is_library(kind.__module__):
            methods.append((kind.__module__, kind.__qualname__))
            continue
        for name, value in sorted(vars(kind).items()):
            method = _function_in(value)
            generated = method is not None and method.__code__.co_filename == "<string>"
            if method is not None and not (generated and name in _GENERATED):
                methods.append((name, of_function(method)))
    return tuple(methods)


def held_by_class(cls: type) -> dict[str, Any]:
    """What the methods of a user's class hold or read, and the data that it has."""
    found = {}
    for place, kind in enumerate(cls.__mro__):
        if is_library(kind.__module__):
            continue
        # The fields of an instance are looked at themselves.
        fields = getattr(kind, "__dataclass_fields__", {})
        for name, value in vars(kind).items():
            method = _function_in(value)
            if method is not None and method.__code__.co_filename != "<string>":
                found[f"{place} {name}"] = held(method)
            elif name not in fields and not name.startswith(("__", "_abc_")):
                if method is None and _is_read(value):
                    found[f"{place} {name}"] = value
    return found


def _function_in(value: Any) -> types.FunctionType | None:
    """The user's function in what a class keeps of a method."""
    if isinstance(value, property):
        value = value.fget
    # Equinox wraps methods in an object of its own.
    value = getattr(value, "method", value)
    value = getattr(value, "__func__", value)
    try:
        value = inspect.unwrap(value)
    except ValueError:
        return None
    return value if isinstance(value, types.FunctionType) else None


def _codes(code: types.CodeType) -> list[types.CodeType]:
    inner = [x for x in code.co_consts if isinstance(x, types.CodeType)]
    return [code, *(y for x in inner for y in _codes(x))]


def _globals(code: types.CodeType) -> set[str]:
    return {
        step.argval
        for one in _codes(code)
        for step in dis.get_instructions(one)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }


def _written(code: types.CodeType) -> set[str]:
    found = set()
    for one in _codes(code):
        before, loaded = None, {}
        for step in dis.get_instructions(one):
            at = step.positions
            start = None if at is None else (at.lineno, at.col_offset)
            if step.opname in ("STORE_DEREF", "STORE_GLOBAL"):
                found.add(step.argval)
            if before is not None and str(step.argval) in _WRITES:
                found.add(before.argval)
            if step.opname in _STORES and start in loaded:
                found.add(loaded[start])  # `TABLE[i] = x` starts where `TABLE` does
            loads = step.opname in ("LOAD_DEREF", "LOAD_GLOBAL", "LOAD_NAME")
            before = step if loads else None
            if loads and start is not None and None not in start:
                loaded[start] = step.argval
    return found


def _is_read(value: Any) -> bool:
    """Whether a value of a module may be a setting."""
    return value is not None and not isinstance(value, types.ModuleType)
