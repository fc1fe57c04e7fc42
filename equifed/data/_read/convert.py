"""From a chunk of an Arrow column to an array."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from .._column import ChunkedColumn, Column


def converter(name: str, kind, feature) -> Callable[[Any], np.ndarray]:
    import pyarrow as pa

    if type(feature).__name__ == "Image":
        return lambda chunk: _images(name, chunk, feature.mode)
    if pa.types.is_struct(kind) or pa.types.is_map(kind) or pa.types.is_union(kind):
        raise ValueError(
            f"Column {name!r} holds {kind}, which has no form as an array. Leave it "
            "out with `columns=...`, or flatten it first (`dataset.flatten()`)."
        )
    return lambda chunk: _array(name, chunk)


def _array(name: str, chunk) -> np.ndarray:
    import pyarrow as pa

    if isinstance(chunk, pa.ExtensionArray):
        chunk = chunk.storage
    kind = chunk.type
    if pa.types.is_dictionary(kind):
        return _array(name, chunk.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return chunk.to_numpy(zero_copy_only=False)
    if chunk.null_count > 0:
        raise ValueError(
            f"Column {name!r} has nulls: {chunk.null_count} among {len(chunk)} values. "
            "Fill them in, or drop those rows (`dataset.filter(...)`)."
        )
    if pa.types.is_fixed_size_list(kind):
        values = _array(name, chunk.flatten())
        return values.reshape(len(chunk), kind.list_size, *values.shape[1:])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values = _array(name, chunk.flatten())
        cuts = np.asarray(chunk.offsets) - chunk.offsets[0].as_py()
        sizes = np.diff(cuts)
        if len(sizes) > 0 and (sizes == sizes[0]).all():
            return values.reshape(len(chunk), int(sizes[0]), *values.shape[1:])
        return _objects([values[a:b] for a, b in zip(cuts, cuts[1:], strict=False)])
    return chunk.to_numpy(zero_copy_only=False)


def _images(name: str, chunk, mode: str | None) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            f"Column {name!r} holds encoded images, and decoding them needs Pillow: "
            "`pip install 'equifed[images]'`."
        ) from error

    out = None
    for i, value in enumerate(chunk):
        value = value.as_py()
        if value is None:
            raise ValueError(
                f"Column {name!r} has nulls: image {i} is missing. Drop those rows "
                "(`dataset.filter(...)`)."
            )
        data = value["bytes"]
        with Image.open(
            io.BytesIO(data) if data is not None else value["path"]
        ) as file:
            target = mode or {"1": "L", "P": "RGB"}.get(file.mode, file.mode)
            image = np.asarray(file if file.mode == target else file.convert(target))
        if out is None:
            out = np.empty((len(chunk), *image.shape), image.dtype)
        if image.shape != out.shape[1:]:
            raise ValueError(
                f"Column {name!r} has images of different sizes: {out.shape[1:]} and "
                f"{image.shape}. Resize them first (`dataset.map(...)`)."
            )
        out[i] = image
    return np.empty(0, np.uint8) if out is None else out


def take(chunk, local, convert) -> np.ndarray:
    import pyarrow as pa

    # Plain numbers are viewed, not copied, unless there are nulls among them: the rows
    # asked for may have none.
    values, nulls = chunk, chunk.null_count
    while pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
        nulls += values.null_count
    kind = values.type
    if nulls == 0 and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return convert(chunk)[local]
    return convert(chunk.take(pa.array(local)))


def together(name: str, chunks: list[np.ndarray], *, image: bool) -> Column:
    chunks = [c for c in chunks if len(c) > 0] or chunks[:1]
    if len(chunks) == 0:
        return np.empty(0, np.float32)
    if len({(c.dtype, c.shape[1:]) for c in chunks}) > 1:
        if image:
            raise ValueError(
                f"Column {name!r} has images of different sizes: "
                f"{sorted({c.shape[1:] for c in chunks})}. Resize them first "
                "(`dataset.map(...)`)."
            )
        chunks = [c if c.dtype == object else _objects(list(c)) for c in chunks]
    return chunks[0] if len(chunks) == 1 else ChunkedColumn(chunks)


def _objects(values: list) -> np.ndarray:
    out = np.empty(len(values), object)
    for i, value in enumerate(values):
        out[i] = value
    return out
