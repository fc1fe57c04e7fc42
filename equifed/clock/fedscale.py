"""Records of phones in FedScale's formats (2105.11367): how fast they are, and when
they are there.

Both are dictionaries of dictionaries, pickled. A pickle may run any program, so that
nothing but plain Python is read of one: dictionaries, lists, numbers and text.
"""

import io
import json
import os
import pathlib
import pickle
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike

from .._check import check_count, checked
from .._words import shown
from .quantity import number, PerClient
from .trace import AvailabilityTrace


class DeviceTrace(NamedTuple):
    """The devices of a record: see [`equifed.clock.read_devices`][]."""

    speed: PerClient
    """FLOP/s."""
    bandwidth: PerClient
    """Bits/s, down and up."""


@checked()
def read_devices(
    path: str | os.PathLike, *, num_clients: int, flops: ArrayLike
) -> DeviceTrace:
    """Reads how fast devices compute and send, in FedScale's format
    (`client_device_capacity`).

    The file is a dictionary, pickled or in JSON, which has for each client
    `{"computation": ..., "communication": ...}`: milliseconds for the inference of one
    example, of which FedScale takes three times as many for training, and kilobits (of
    1,024) a second.

    **Arguments:**

    - `path`: the file.
    - `num_clients`: the size of the population. Client `i` has the `i`-th device of the
        file; where there are fewer, they are gone through again, as FedScale does.
    - `flops`: what training on one example costs, by which milliseconds become a
        speed: `work.flops / batch_size` of your model gives FedScale's times. A record
        that was measured on a larger model than yours asks for that model's.

    **Returns:**

    The `speed` and the `bandwidth`, to give to a [`equifed.clock.SystemModel`][].

    **Raises:**

    `ValueError` for a file of another format, and a hole in it, by its client.
    """
    flops = number("flops", flops, least=0, strict=True)
    devices = _read(path, check_count("num_clients", num_clients))
    columns = []
    for field in ("computation", "communication"):
        column = []
        for client, entry in devices:
            x: Any = entry.get(field)
            if not _is_number(x) or not x > 0:
                raise ValueError(
                    f"`{field}` of client {client!r} in `{path}` must be a number "
                    f"above 0, got {shown(x)}. Leave that client out of the file."
                )
            column.append(float(x))
        columns.append(np.asarray(column))
    milliseconds, kilobits = columns
    speed = flops / (3 * milliseconds / 1000)
    return DeviceTrace(PerClient(speed), PerClient(1024 * kilobits))


@checked()
def read_availability(
    path: str | os.PathLike, *, num_clients: int
) -> AvailabilityTrace:
    """Reads when clients were there, in FedScale's format (`client_behave_trace`).

    The file is a dictionary, pickled or in JSON, which has for each client `{"active":
    [...], "inactive": [...], "finish_time": ...}`: the seconds at which it came, those
    at which it went, and after how many all of it repeats. Other fields are left out.

    **Arguments:**

    - `path`: the file.
    - `num_clients`: the size of the population. Client `i` has the `i`-th record of the
        file; where there are fewer, they are gone through again, as FedScale does.

    **Raises:**

    `ValueError` for a file of another format, and a hole in it, by its client.
    """
    intervals, periods = [], []
    for client, entry in _read(path, check_count("num_clients", num_clients)):
        came: Any = entry.get("active")
        went: Any = entry.get("inactive")
        period: Any = entry.get("finish_time")
        fits = isinstance(came, list) and isinstance(went, list)
        fits = fits and len(came) == len(went)
        if not fits or not _is_number(period) or not period > 0:
            raise ValueError(
                f"Client {client!r} in `{path}` must have `active` and `inactive`, two "
                "lists of one length, and `finish_time`, a number above 0, got "
                f"{shown(came)}, {shown(went)} and {shown(period)}. Fill the hole, or "
                "leave that client out of the file."
            )
        for x in (*came, *went):
            if not _is_number(x):
                raise ValueError(
                    f"The times of client {client!r} in `{path}` must be numbers, got "
                    f"{shown(x)}. Fill the hole, or leave that client out of the file."
                )
        for start, stop in zip(came, went, strict=True):
            if not 0 <= start <= stop:
                raise ValueError(
                    f"Client {client!r} in `{path}` has an interval from {start:g} to "
                    f"{stop:g}: it must begin at 0 or later, and end after that. Fill "
                    "the hole, or leave it out."
                )
        if came and min(came) >= period:
            raise ValueError(
                f"All intervals of client {client!r} in `{path}` begin after its "
                f"`finish_time` of {period:g}, the first at {min(came):g}: they are in "
                "another unit."
            )
        intervals.append(list(zip(came, went, strict=True)))
        periods.append(period)
    return AvailabilityTrace(intervals, period=periods)


def _is_number(x: Any) -> bool:
    """Whether it is a number that a float can hold."""
    is_one = isinstance(x, int | float) and not isinstance(x, bool)
    return is_one and abs(x) <= sys.float_info.max


def _read(
    path: str | os.PathLike, num_clients: int
) -> list[tuple[Any, Mapping[str, Any]]]:
    """The names and records of as many clients, the first ones again where there are
    fewer."""
    data = pathlib.Path(path).read_bytes()
    if data.lstrip()[:1] == b"{":
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"`{path}` is not JSON: {error}.") from error
    else:
        found = _PlainUnpickler.of(data, path)
    records = list(found.items()) if isinstance(found, dict) else []
    if not records or not all(isinstance(x, dict) for _, x in records):
        raise ValueError(
            f"`{path}` must hold a dictionary that has for each client another one, "
            f"got {shown(found)}."
        )
    return [records[i % len(records)] for i in range(num_clients)]


class _PlainUnpickler(pickle.Unpickler):
    """Reads a pickle without importing, and so without running, anything."""

    @staticmethod
    def of(data: bytes, path: str | os.PathLike) -> Any:
        try:
            return _PlainUnpickler(io.BytesIO(data)).load()
        except Exception as error:
            raise ValueError(
                f"`{path}` is neither JSON nor a pickle of dictionaries, lists, "
                f"numbers and text: {error}. Nothing else is read of a pickle, which "
                "could run any program; write it anew with `json.dump`."
            ) from error

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds a `{module}.{name}`")
