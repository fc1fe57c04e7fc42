"""FedJAX's files: a row for each client, its examples packed and compressed.

FedJAX packs with msgpack, which knows no arrays. They are extensions of it, whose own
content is packed again: a shape, the name of a dtype and the numbers' bytes, or a shape
and a list of texts.
"""

import os
import zlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._words import first_line, shown
from .. import _build
from .._arrays import check_columns
from .._column import check_names
from .._dataset import FederatedDataset
from .._ids import as_id, natural_key
from .database import Damaged, Database, opened


_ARRAY, _COMPLEX, _NUMBER, _TEXTS = 1, 2, 3, 4
_TABLE = {"federated_data": ("client_id", "data", "num_examples")}


def from_fedjax_sqlite(
    path: str | os.PathLike, *, columns: Sequence[str] | None = None
) -> FederatedDataset:
    """Reads a file that FedJAX's `SQLiteFederatedDataBuilder` wrote, or one that it
    downloads, into memory.

    Needs `pip install "equifed[sqlite]"`, for msgpack. Ids are text here, where they
    are bytes there, and clients are in natural order, where they are in that of the
    file. Dtypes are kept; text is an array of `bytes` objects. What is too much for
    memory is read once on a larger machine and written with `to_parquet`.

    !!! example

        ```python
        clients = eqf.data.from_fedjax_sqlite("federated_emnist_train.sqlite")
        clients = clients.map(
            lambda c: {"x": 1 - c["pixels"][..., np.newaxis], "y": c["label"]}
        )
        ```

    **Arguments:**

    - `path`: The file. It is not changed.
    - `columns`: The features to keep. By default all.

    **Raises:**

    `ValueError` if it is no such file, or if a row is damaged: which one, and whose.
    """
    names = None if columns is None else check_columns("columns", columns)
    _need_msgpack()
    with opened(path) as file:
        file.check("FedJAX", _TABLE)
        query = "SELECT rowid, client_id, data, num_examples FROM federated_data"
        clients = [_client(file, names, *row) for row in file.rows(query)]
    if len(clients) == 0:
        raise ValueError(f"{file.path} is empty: it has no clients.")
    clients.sort(key=lambda pair: natural_key(pair[0]))
    return FederatedDataset(*_build.from_clients(clients))


def _client(
    file: Database,
    names: list[str] | None,
    row: int,
    client: Any,
    blob: Any,
    stored: Any,
) -> tuple[str, dict[str, np.ndarray]]:
    client_id = as_id(client)
    try:
        examples = _unpacked(blob)
        sizes = {name: len(column) for name, column in examples.items()}
        wrong = [f"{n} of {name!r}" for name, n in sizes.items() if n != stored]
        if wrong:
            raise Damaged(f"it is to have {shown(stored)} examples, and has {wrong[0]}")
    except Damaged as reason:
        raise file.damaged(row, client_id, reason) from reason.__cause__
    if names is None:
        return client_id, examples
    check_names(names, examples)
    return client_id, {name: examples[name] for name in names}


def _unpacked(blob: Any) -> dict[str, np.ndarray]:
    """The examples in a blob."""
    import msgpack

    if not isinstance(blob, bytes):
        raise Damaged(f"its data are {shown(blob)}, where a blob belongs")
    try:
        data = zlib.decompress(blob)
    except zlib.error as error:
        raise Damaged(f"it cannot be decompressed ({first_line(error)})") from error
    try:
        examples = msgpack.unpackb(data, ext_hook=_extension, raw=False)
    except Exception as error:  # msgpack's have no class in common
        name = type(error).__name__
        raise Damaged(f"it cannot be unpacked ({name}: {first_line(error)})") from error
    if not isinstance(examples, dict) or len(examples) == 0:
        raise Damaged(f"it holds {shown(examples)}, where examples by name belong")
    for name, column in examples.items():
        if not isinstance(name, str) or np.ndim(column) == 0:
            raise Damaged(
                f"feature {name!r} is {shown(column)}, where an array belongs"
            )
    return {name: np.asarray(column) for name, column in examples.items()}


def _extension(code: int, data: bytes) -> Any:
    import msgpack

    content = msgpack.unpackb(data, raw=True)
    if code == _ARRAY:
        return _array(*content)
    if code == _NUMBER:
        return _array(*content)[()]
    if code == _COMPLEX:
        return complex(*content)
    if code == _TEXTS:
        shape, texts = content
        out = np.empty(len(texts), object)
        out[:] = texts
        return out.reshape(shape)
    raise ValueError(f"extension {code} is unknown")


def _array(shape: Sequence[int], dtype: bytes, buffer: bytes) -> np.ndarray:
    kind = jnp.bfloat16 if dtype == b"bfloat16" else np.dtype(dtype.decode())
    return np.frombuffer(buffer, kind).reshape(shape)


def _need_msgpack() -> None:
    try:
        import msgpack  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "FedJAX's files are packed with msgpack, which is not installed: "
            "`pip install 'equifed[sqlite]'`."
        ) from error
