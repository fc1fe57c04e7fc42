"""From a chunk of an Arrow column to an array."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from .._column import ChunkedColumn, Column
from .images import Images, Rows


# Converts a chunk, given the numbers of its rows, and what puts such a number into
# words.
Converter: TypeAlias = Callable[[Any, Rows, Callable[[int], str]], np.ndarray]


def converter(name: str, kind, feature) -> Converter:
    """What makes arrays of the chunks of a column."""
    if type(feature).__name__ == "Image":
        return Images(name, feature)
    structure, decoded = _structure(kind), _decoded(feature)
    if structure is not None or decoded is not None:
        held, remedy = shortened(str(structure)), "make numbers of it first"
        if decoded is not None:
            held = f"`datasets.{decoded}`"
        elif "bytes: " in held and "path: " in held:
            remedy = "declare encoded images as such, with `features`"
        raise ValueError(
            f"Column {name!r} holds {held}, which has no form as an array. Leave it "
            f"out with `columns=...`, or {remedy} (`dataset.map(...)`)."
        )
    return lambda chunk, rows, where: _array(name, chunk)


def _decoded(feature) -> str | None:
    """What `datasets` makes of a column's values when it hands them out, if it does."""
    if callable(getattr(feature, "decode_example", None)) and feature.decode:
        return type(feature).__name__
    inner = getattr(feature, "feature", None)  # of a list
    return None if inner is None else _decoded(inner)


def _structure(kind) -> str | None:
    """The part of a type that has fields, if there is one."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return _structure(kind.storage_type)
    if pa.types.is_dictionary(kind) or _is_list(kind):
        return _structure(kind.value_type)
    if pa.types.is_nested(kind) and not pa.types.is_run_end_encoded(kind):
        return str(kind)
    return None


def _is_list(kind) -> bool:
    import pyarrow as pa

    types = pa.types
    return (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
    )


def _plain(chunk):
    """The chunk in the form that its values have, whatever they are stored as."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(chunk, pa.ExtensionArray):
        return _plain(chunk.storage)
    if pa.types.is_dictionary(chunk.type):
        return _plain(chunk.dictionary_decode())
    if pa.types.is_run_end_encoded(chunk.type):
        return _plain(pc.run_end_decode(chunk))  # pyright: ignore
    return chunk


def has_nulls(chunk) -> bool:
    chunk = _plain(chunk)
    if chunk.null_count > 0:
        return True
    return _is_list(chunk.type) and has_nulls(chunk.flatten())


def null_rows(chunk) -> np.ndarray:
    """Which rows of a chunk are null, or have a null in them."""
    import pyarrow.compute as pc

    chunk = _plain(chunk)
    null = np.array(chunk.is_null())
    if _is_list(chunk.type):
        sizes = pc.list_value_length(chunk).fill_null(0)  # pyright: ignore
        owners = np.repeat(np.arange(len(chunk)), np.asarray(sizes))
        null[owners[null_rows(chunk.flatten())]] = True
    return null


def _array(name: str, chunk) -> np.ndarray:
    import pyarrow as pa

    chunk = _plain(chunk)
    kind = chunk.type
    if pa.types.is_fixed_size_list(kind):
        values = _array(name, chunk.flatten())
        return values.reshape(len(chunk), kind.list_size, *values.shape[1:])
    if _is_list(kind):
        values = _array(name, chunk.flatten())
        cuts = np.asarray(chunk.offsets) - chunk.offsets[0].as_py()
        sizes = np.diff(cuts)
        if len(sizes) > 0 and (sizes == sizes[0]).all():
            return values.reshape(len(chunk), int(sizes[0]), *values.shape[1:])
        return objects([values[a:b] for a, b in zip(cuts, cuts[1:], strict=False)])
    try:
        return chunk.to_numpy(zero_copy_only=False)
    except (pa.ArrowException, NotImplementedError) as error:
        raise ValueError(
            f"Column {name!r} holds {shortened(str(kind))}, which cannot be read as "
            "an array. Cast it first (`dataset.cast_column(...)`), or leave it out "
            "with `columns=...`."
        ) from error


def narrowed(chunk, local: np.ndarray):
    """A chunk, and the places in its array, of the rows with these places in it.

    Plain numbers are viewed, not copied, unless there are nulls among them: the rows
    asked for may have none.
    """
    import pyarrow as pa

    values, nulls = chunk, chunk.null_count
    while pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
        nulls += values.null_count
    kind = values.type
    if nulls == 0 and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return chunk, local
    return chunk.take(pa.array(local)), slice(None)


def joined_chunks(chunks: list[np.ndarray]) -> Column:
    """The converted chunks as one column."""
    chunks = [c for c in chunks if len(c) > 0] or chunks[:1]
    if len(chunks) == 0:
        return np.empty(0, np.float32)
    if len({(c.dtype, c.shape[1:]) for c in chunks}) > 1:
        chunks = [c if c.dtype == object else objects(list(c)) for c in chunks]
    return chunks[0] if len(chunks) == 1 else ChunkedColumn(chunks)


def objects(values: list) -> np.ndarray:
    out = np.empty(len(values), object)
    for i, value in enumerate(values):
        out[i] = value
    return out


def shortened(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
