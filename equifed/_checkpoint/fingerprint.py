"""What makes an experiment the same one, in words that a person can read.

It is flat: `"client.optim"` is `"Optim(sgd: 0.1) #4fe1..."`. Where a value is too long
to be shown, digits stand for it; they are the same in every process. Of the starting
model a few numbers are kept and compared as numbers, since what initialised it on
another kind of device may differ in its last bits. Of what is frozen all is read.
"""

import dataclasses
import inspect
import pathlib
import platform
import types
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from .._algorithm import AbstractAlgorithm
from .._json import from_json, to_json
from .._optim import Optim
from .._role_table import paths_of
from .._roles import Roles
from .._tree import leaves_by_path
from .._types import Model
from .._warn import warn
from ..data import AbstractLoader, FederatedDataset, Loader, StreamLoader
from .base import FROZEN, other_base
from .code import held
from .content import content, has_all_numbers
from .digest import digest, fields_of


Fingerprint: TypeAlias = dict[str, Any]

PYTHON = "python"  # on record, as bytecode depends on it, but not compared
_SHOWN = 40  # characters of a value in an error
_ROOM = 560  # characters of an error

# What the privacy of the rounds rests on that were run before a checkpoint.
_FIRM = ("`privacy.sampler", "`privacy.mechanism", "`privacy.num_clients")
_FIRM += ("`privacy.client.noise_multiplier", "`privacy.client.batching")
_FIRM += ("`data.client_ids",)


def fingerprint(
    algorithm: AbstractAlgorithm,
    model: Model,
    loader: AbstractLoader,
    *,
    key: PRNGKeyArray,
    roles: Roles | None = None,
) -> Fingerprint:
    if jax.process_index() != 0:
        return {}  # It is process 0 that compares and writes.
    parts = dict(_outline("algorithm", algorithm))
    parts = {name.removeprefix("algorithm."): x for name, x in parts.items()}
    return {
        PYTHON: python(),
        "key": _text(typed_key(key)),
        **parts,
        **dict(_model(model, () if roles is None else roles.of("frozen"))),
        **dict(_data(loader)),
    }


def python() -> str:
    """The version of Python, of which bytecode depends."""
    return ".".join(platform.python_version_tuple()[:2])


def outlined(name: str, x: Any, **more: Any) -> Fingerprint:
    """What makes one more part of an experiment the same."""
    return dict(_outline(name, x)) | {f"{name}.{n}": _text(y) for n, y in more.items()}


def typed_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """The key as `jax.random.key` makes it: an old-style one has the same numbers."""
    is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key if is_typed else jr.wrap_key_data(key)


def _outline(name: str, x: Any) -> Iterator[tuple[str, Any]]:
    """A module, or what a clock is made of, field by field."""
    by_field = isinstance(x, eqx.Module) or dataclasses.is_dataclass(x)
    if by_field and not isinstance(x, Optim):
        kind = type(x)
        own = "" if kind.__module__.startswith("equifed.") else f" #{digest(kind)}"
        yield name, f"{kind.__name__}{own}"
        for field, value in fields_of(x).items():
            yield from _outline(f"{name}.{field}", value)
    else:
        yield name, _text(x)


def _text(x: Any) -> Any:
    """A value as it is, if that is short, or what it is and digits."""
    if x is None or isinstance(x, bool | int | float | str):
        return x if not isinstance(x, str) or len(x) < _SHOWN else f"text #{digest(x)}"
    if isinstance(x, Optim):
        return f"{x!r:.100} #{digest(x)}"
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        numbers = np.asarray(jr.key_data(x)).tolist()
        return f"{jr.key_impl(x)} {numbers}" if x.ndim == 0 else f"keys #{digest(x)}"
    if isinstance(x, jax.Array | np.ndarray | np.generic):
        if x.ndim == 0 and np.issubdtype(np.asarray(x).dtype, np.number):
            number = np.asarray(x).item()
            return str(number) if isinstance(number, complex) else number
        return f"{x.dtype}{list(x.shape)} #{digest(x)}"
    if isinstance(x, types.FunctionType):
        numbers = {
            name: value
            for name, value in held(inspect.unwrap(x)).items()
            if isinstance(value, bool | int | float)
        }
        inside = ", ".join(f"{name}={value}" for name, value in numbers.items())
        return f"{x.__name__}({inside}) #{digest(x)}"
    if isinstance(x, tuple | list) and len(repr(x)) < _SHOWN:
        if all(isinstance(y, bool | int | float | str) for y in x):
            return repr(x)
    name = getattr(x, "__name__", type(x).__name__)
    return f"{name} #{digest(x)}"


def _model(model: Model, frozen: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What the model is, digits of all that is frozen, and up to four numbers of each
    of its other arrays."""
    others = eqx.filter(model, eqx.is_array, inverse=True)
    yield "model", f"{type(model).__name__} #{digest(others)}"
    arrays = leaves_by_path(eqx.filter(model, eqx.is_array))
    if frozen:
        where = dict(zip(paths_of(model), leaves_by_path(model), strict=True))
        yield FROZEN, content({path: arrays.pop(where[path]) for path in frozen})
    for path, x in arrays.items():
        name = f"model{path}"
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            yield name, _text(x)
        elif has_all_numbers(x) and x.size > 0:
            numbers = np.abs(np.asarray(x).astype(np.complex128)) * np.where(
                np.real(np.asarray(x)) < 0, -1, 1
            )
            chosen = np.linspace(0, x.size - 1, min(4, x.size)).astype(np.int64)
            yield name, [float(f"{v:.6g}") for v in numbers.reshape(-1)[chosen]]
        else:
            yield name, f"{x.dtype}{list(x.shape)}"


def _data(loader: AbstractLoader) -> Iterator[tuple[str, Any]]:
    if isinstance(loader, Loader):
        yield from _outline("sampler", loader.sampler)
        if loader.clock is not None:
            yield from _outline("clock", loader.clock)
        yield from _dataset(loader.dataset)
        return
    if not isinstance(loader, StreamLoader):
        # What it is made of is its own business: it is told by its class alone.
        yield "loader", type(loader).__qualname__
        yield "loader.num_clients", loader.num_clients
        return
    stream = loader.stream
    yield "loader", "StreamLoader"
    yield "loader.cohort_size", loader.cohort_size
    yield "loader.buffer_size", loader.buffer_size
    yield "loader.seed", loader.seed
    yield "stream.by", stream.by
    yield "stream.columns", _text(stream.columns)
    yield "stream.transform", _text(stream.transform)
    # The rest of it cannot be looked at without reading all of it.
    first = next(iter(stream), None)
    yield "stream.first_client", None if first is None else _text(tuple(first))


def _dataset(dataset: FederatedDataset) -> Iterator[tuple[str, Any]]:
    yield "data.client_ids", f"{dataset.num_clients} ids #{digest(dataset.client_ids)}"
    sizes = digest(np.asarray(dataset.offsets))
    yield "data.client_sizes", f"{dataset.num_examples} examples #{sizes}"
    for name, column in dataset.columns.items():
        shape = list(column.shape[1:])
        yield f"data.{name}", f"{column.dtype}{shape} #{digest(column)}"


def differences(saved: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs, each in a few words."""
    found = []
    for name in [*saved, *(name for name in now if name not in saved)]:
        if name == PYTHON:
            continue
        old, new = saved.get(name, "absent"), now.get(name, "absent")
        if not _same(old, new):
            # The digits are not shown where the words differ.
            before, after = (str(x).partition(" #")[0] for x in (old, new))
            if before == after:
                before, after = str(old), str(new)
            found.append(f"`{name}` {_short(before)} -> {_short(after)}")
    if found and saved.get(PYTHON) != now.get(PYTHON):
        found.append(
            f"Python {saved.get(PYTHON)} -> {now.get(PYTHON)} (the code of the same "
            "function differs)"
        )
    return found


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return np.allclose(old, new, rtol=1e-3, atol=1e-6, equal_nan=True)
    return type(old) is type(new) and (old == new or repr(old) == repr(new))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 16]}...{text[-13:]}"


def check_fingerprint(
    path: pathlib.Path,
    saved: Fingerprint | None,
    now: Fingerprint | None,
    on_change: str,
) -> str | None:
    """Why a checkpoint must not be gone on from; only warned of, if so wished."""
    if now is None:
        return None
    where = str(path) if len(str(path)) <= 160 else f"...{str(path)[-157:]}"
    private = "privacy" in now
    if saved is None and private:
        return (
            f"The checkpoint `{where}` was saved without a fingerprint, so that it is "
            "not known how private its rounds were. Give another directory."
        )
    if saved is None:
        warn(
            f"The checkpoint `{where}` was saved without a fingerprint, so that it is "
            "not known whether it is of this experiment.",
        )
        return None
    if FROZEN in saved and FROZEN in now and saved[FROZEN] != now[FROZEN]:
        return other_base(where, saved[FROZEN], now[FROZEN])
    # As the saved one was written and read.
    found = differences(saved, from_json(to_json(now)))
    if not found:
        return None
    what = f"The checkpoint `{where}` is of another experiment: "
    firm = [x for x in found if x.startswith(_FIRM)] if private else []
    if firm:
        # An epsilon is that of all rounds, the saved ones too.
        found = firm + [x for x in found if x.startswith("Python ")]
        end = (
            ". The plan's epsilon would not be that of the rounds before. Restore what "
            "it was made with, or give another directory."
        )
    elif on_change == "warn":
        end = ". Training goes on from it with the new settings."
    else:
        end = (
            ". Restore what it was made with, give another directory, or go on with "
            'the new settings by `Checkpointer(..., on_change="warn")`.'
        )
    message = what + _as_many(found, _ROOM - len(what) - len(end)) + end
    if firm or on_change == "error":
        return message
    warn(message)
    return None


def _as_many(parts: list[str], room: int) -> str:
    """As many as there is room for, and how many more there are."""
    shown = [parts[0]]
    for part in parts[1:]:
        if len("; ".join([*shown, part])) + len("; and 99 more") > room:
            break
        shown.append(part)
    rest = len(parts) - len(shown)
    return "; ".join(shown) + (f"; and {rest} more" if rest else "")
