"""TensorFlow's `Example`, read from its bytes.

A protocol buffer is a list of fields: a number, a kind of coding, and a value, which
may be a list of fields itself. An `Example` has features in its field 1; these have, in
their field 1, pairs of a name (1) and a feature (2); and a feature has a list of bytes
(1), of floats (2) or of integers (3).
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from .database import Damaged


# Bytes, or numbers.
Feature: TypeAlias = list[bytes] | np.ndarray

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def features_of(blob: bytes) -> dict[str, Feature]:
    """The features of an example, by name."""
    features: dict[str, Feature] = {}
    for whole in _parts(blob, 1):
        for pair in _parts(whole, 1):
            names, values = list(_parts(pair, 1)), list(_parts(pair, 2))
            # Of what is given twice, the last counts; what is not given is empty.
            name = names[-1].decode("utf-8", "backslashreplace") if names else ""
            features[name] = _feature(name, values[-1] if values else b"")
    if len(features) == 0:
        raise Damaged("it has no features")
    return features


def _feature(name: str, data: bytes) -> Feature:
    kind, content = 0, b""
    for number, _, value in _fields(data):
        if number in (1, 2, 3) and isinstance(value, bytes):
            kind, content = number, value
    if kind == 1:
        return list(_parts(content, 1))
    if kind == 2:
        packed = b"".join(_parts(content, 1, _FOUR))
        if len(packed) % 4:
            raise Damaged(f"the floats of feature {name!r} end amid a number")
        return np.frombuffer(packed, "<f4").astype(np.float32)
    if kind == 3:
        return _integers(b"".join(_parts(content, 1, _VARINT)), name)
    raise Damaged(f"feature {name!r} has no values")


def _integers(packed: bytes, name: str) -> np.ndarray:
    """Numbers of seven bits a byte, the lowest first; all bytes but the last of each
    have the highest bit set."""
    if len(packed) == 0:
        return np.empty(0, np.int64)
    data = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(data < 128)
    if len(ends) == 0 or ends[-1] != len(data) - 1:
        raise Damaged(f"the integers of feature {name!r} end amid a number")
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > 10:
        raise Damaged(f"feature {name!r} has an integer of {lengths.max()} bytes")
    places = (np.arange(len(data)) - np.repeat(starts, lengths)).astype(np.uint64)
    sevens = (data & 127).astype(np.uint64) << (np.uint64(7) * places)
    return np.add.reduceat(sevens, starts).view(np.int64)


def _parts(data: bytes, number: int, unpacked: int | None = None) -> Iterator[bytes]:
    """The bytes of all fields of a number. Of a list of numbers there may be one field
    for all, or one for each: they are as good end to end."""
    for found, kind, value in _fields(data):
        if found == number and kind in (_BYTES, unpacked):
            yield value


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """All fields: the number, the kind of coding, and the bytes of the value."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        start = place
        if kind == _VARINT:
            _, place = _varint(data, place)
        elif kind == _BYTES:
            length, start = _varint(data, place)
            place = start + length
        elif kind in (_FOUR, _EIGHT):
            place += 4 if kind == _FOUR else 8
        else:
            raise Damaged(f"it has a field of the unknown kind {kind}")
        if place > len(data):
            raise Damaged("it ends amid a field")
        yield number, kind, data[start:place]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise Damaged("it ends amid a number")
