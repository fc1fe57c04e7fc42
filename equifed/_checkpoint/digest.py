"""A value as a few hexadecimal digits, the same in every process.

Addresses, hashes of Python, the order of sets and the places of functions do not enter.
"""

import dataclasses
import decimal
import enum
import fractions
import functools
import hashlib
import pathlib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from .._optim import Optim
from ..data import ChunkedColumn, FederatedDataset
from .code import (
    held,
    held_by_class,
    is_library,
    is_library_code,
    of_class,
    of_function,
)


WHOLE = 1 << 24  # bytes of an array up to which all of it is read
PIECES = 1 << 10  # of a larger one, evenly spread
PIECE = 1 << 14  # bytes

_UNSET = object()
_PLAIN = (bool, int, float, complex, str, bytes, range, types.EllipsisType, slice)
_PLAIN += (fractions.Fraction, decimal.Decimal)


def digest(x: Any) -> str:
    """Twelve digits that tell a value from others."""
    return _Digest().of(x).hex()[:12]


class _Digest:
    """One look at a value; what occurs in it twice is looked at once."""

    def __init__(self, begun: Iterable[int] = ()):
        self._begun = set(begun)  # that what is inside may be
        self._known = dict.fromkeys(self._begun, b"of itself")
        self._alive: list[Any] = []  # so that no address is used twice

    def of(self, x: Any) -> bytes:
        if x is None or isinstance(x, _PLAIN) and not isinstance(x, enum.Enum):
            return _hashed(type(x).__name__, repr(x).encode("utf-8", "replace"))
        if id(x) not in self._known:
            self._known[id(x)] = b"of itself"
            self._begun.add(id(x))
            self._alive.append(x)
            kind, parts = _parts(x)
            self._known[id(x)] = _hashed(kind, *(y for p in parts for y in self._of(p)))
            self._begun.remove(id(x))
        return self._known[id(x)]

    def _of(self, part: "bytes | _Inner | _Unordered") -> Iterator[bytes]:
        if isinstance(part, bytes):
            yield part
        elif isinstance(part, _Inner):
            yield self.of(part.value)
        else:
            # By their digits: the words for a key may have an address in them. Each is
            # looked at for itself, as what was looked at before is in no order.
            own = [_Digest(self._begun).of(row[0]) for row in part.rows]
            for i in sorted(range(len(own)), key=own.__getitem__):
                yield from map(self.of, part.rows[i])


@dataclasses.dataclass
class _Inner:
    """A part that is a value itself, rather than its bytes."""

    value: Any


@dataclasses.dataclass
class _Unordered:
    """Parts in no order, which the first value of each gives them."""

    rows: list[tuple[Any, ...]]


def _hashed(*parts: str | bytes) -> bytes:
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        part = part.encode("utf-8", "replace") if isinstance(part, str) else part
        total.update(len(part).to_bytes(8, "little") + part)
    return total.digest()


def _parts(x: Any) -> tuple[str, list[Any]]:
    """The kind of a value and what it is made of: bytes, or further values."""
    for kinds, take_apart in _KINDS:
        if isinstance(x, kinds):
            return take_apart(x)
    if dataclasses.is_dataclass(x):
        return "fields", [_Inner(type(x)), _Inner(fields_of(x))]
    wrapped = getattr(x, "__wrapped__", None)
    if wrapped is not None:  # by `jax.jit`, `jax.custom_vjp`, ...
        return type(x).__name__, [_Inner(wrapped)]
    if is_library(type(x).__module__):
        name = getattr(x, "__qualname__", getattr(x, "__name__", ""))
        where = getattr(x, "__module__", "")
        return "thing", [f"{type(x).__qualname__} {where} {name}".encode()]
    return "object", [_Inner(type(x)), _Inner(_slots(x) | getattr(x, "__dict__", {}))]


def _slots(x: Any) -> dict[str, Any]:
    """What an object keeps outside of its `__dict__`."""
    members = {
        name: value
        for kind in reversed(type(x).__mro__)
        for name, value in vars(kind).items()
        if isinstance(value, types.MemberDescriptorType)
    }
    found = {name: getattr(x, name, _UNSET) for name in members}
    return {name: value for name, value in found.items() if value is not _UNSET}


def _of_mapping(x: Mapping[Any, Any]) -> tuple[str, list[Any]]:
    return "mapping", [_Unordered(list(x.items()))]


def _of_sequence(x: Any) -> tuple[str, list[Any]]:
    return type(x).__name__, [_Inner(y) for y in x]


def _of_set(x: Any) -> tuple[str, list[Any]]:
    return "set", [_Unordered([(y,) for y in x])]


def _of_partial(x: Any) -> tuple[str, list[Any]]:
    return "partial", [_Inner(x.func), _Inner(x.args), _Inner(x.keywords)]


def _of_method(x: Any) -> tuple[str, list[Any]]:
    return "method", [_Inner(x.__self__), _Inner(x.__func__)]


def _of_function(x: types.FunctionType) -> tuple[str, list[Any]]:
    inner = getattr(x, "__wrapped__", None)
    if inner is not None and is_library_code(x.__code__):
        return "function", _parts(inner)[1]  # it is checked, or differentiated, ...
    parts = [_Inner(of_function(x)), _Inner(held(x))]
    return "function", parts + ([] if inner is None else [_Inner(inner)])


def _of_class(x: type) -> tuple[str, list[Any]]:
    return "class", [_Inner(of_class(x)), _Inner(held_by_class(x))]


def _of_enum(x: enum.Enum) -> tuple[str, list[Any]]:
    return "enum", [_Inner(type(x).__qualname__), _Inner(x.name), _Inner(x.value)]


def _of_optim(x: Optim) -> tuple[str, list[Any]]:
    # What its functions hold has been made into leaves; here only their code counts.
    static = [getattr(leaf, "fn", leaf) for leaf in x.static.leaves]
    code = [of_function(y) if isinstance(y, types.FunctionType) else y for y in static]
    return "optim", [_Inner(jtu.tree_leaves(x)), _Inner(code)]


def fields_of(x: Any) -> dict[str, Any]:
    """The fields of a module, or of another dataclass, that are set."""
    values = {f.name: getattr(x, f.name, _UNSET) for f in dataclasses.fields(x)}
    return {name: value for name, value in values.items() if value is not _UNSET}


def _of_dataset(x: FederatedDataset) -> tuple[str, list[Any]]:
    return "dataset", [_Inner(x.columns), _Inner(x.offsets), _Inner(x.client_ids)]


def _of_array(x: Any) -> tuple[str, list[Any]]:
    if isinstance(x, jax.Array):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return f"key {jr.key_impl(x)}", [_Inner(jr.key_data(x))]
        if not (x.is_fully_addressable or x.is_fully_replicated):
            return "shards", [f"{x.dtype} {x.shape}".encode()]  # other processes' too
        x = np.asarray(x)
    if x.dtype == object:
        return "array", [_Inner(np.asarray(x).tolist())]
    return "array", [f"{x.dtype.name} {x.shape}".encode(), *_pieces(x)]


def _pieces(x: Any) -> list[bytes]:
    """The bytes of an array, or of rows of it that are evenly spread."""
    if x.nbytes <= WHOLE or x.ndim == 0:
        return [np.asarray(x).tobytes()]
    rows = max(1, PIECE * len(x) // x.nbytes)
    starts = np.linspace(0, len(x) - rows, PIECES).astype(np.int64)
    return [np.asarray(x[i : i + rows]).tobytes() for i in starts.tolist()]


_KINDS: tuple[tuple[Any, Callable[[Any], tuple[str, list[Any]]]], ...] = (
    ((np.ndarray, np.generic, jax.Array, ChunkedColumn), _of_array),
    (FederatedDataset, _of_dataset),
    (Optim, _of_optim),
    (enum.Enum, _of_enum),
    (type, _of_class),
    (types.FunctionType, _of_function),
    (types.MethodType, _of_method),
    (functools.partial, _of_partial),
    (types.SimpleNamespace, lambda x: ("namespace", [_Inner(vars(x))])),
    (Mapping, _of_mapping),
    ((list, tuple), _of_sequence),
    ((set, frozenset), _of_set),
    (np.dtype, lambda x: ("dtype", [x.name.encode()])),
    (pathlib.PurePath, lambda x: ("path", [str(x).encode()])),
    (types.ModuleType, lambda x: ("module", [x.__name__.encode()])),
)
