"""What an evaluation puts on the devices: rows of a dataset, and the model."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped, UInt

from .._types import Model
from ..data import FederatedDataset
from ..data._placement import on_device_dtype, Placement
from ..data._plan import ladder
from ..data._whose import owner_of, read_rows


# Examples go to a device in pieces of at most this many bytes.
_PIECE = 2**28
# A share has at least so many rows; up to `_SMALL`, a power of two. That costs next to
# nothing, for batches of rows that fill up are not run, and saves compiling.
_LEAST, _SMALL = 16, 256


class Rows(eqx.Module):
    """Rows of a dataset, an equal share on each device. A share that is too short is
    filled up with zeros."""

    examples: dict[str, Shaped[Array, "devices rows ..."]]
    client: Int[Array, "devices rows"]
    first: UInt[Array, " devices"]
    """The number of the share's first row in the dataset."""
    count: Int[Array, " devices"]
    """The number of its rows that are the dataset's."""


def piece_size(dataset: FederatedDataset, batch_size: int, place: Placement) -> int:
    """How many rows to put on all devices at a time."""
    row = max(1, dataset.nbytes // dataset.num_examples)
    return max(batch_size, _PIECE // row) * place.num_devices


def put_rows(
    dataset: FederatedDataset,
    client: Int[np.ndarray, " rows"],
    start: int,
    stop: int,
    place: Placement,
) -> Rows:
    """Puts the rows `start:stop` on the devices: each process its own share.

    Shares have one of few sizes, so that datasets of many sizes compile a few times.
    """
    share = -(-(stop - start) // place.num_devices)
    size = max(ladder(share), _small(share))
    firsts = np.minimum(start + share * np.arange(place.num_devices), stop)
    counts = np.minimum(firsts + share, stop) - firsts

    whose = owner_of(dataset)

    def put(
        shape: tuple[int, ...], read: Callable[[int, int], np.ndarray]
    ) -> Shaped[Array, "devices rows ..."]:
        def part(device: int) -> np.ndarray:
            first, count = int(firsts[device]), int(counts[device])
            rows = read(first, first + count)
            fill = [(0, size - count)] + [(0, 0)] * (rows.ndim - 1)
            return np.pad(rows, fill) if count < size else rows

        return place.each((size, *shape), part)

    def column(name: str) -> Shaped[Array, "devices rows ..."]:
        def read(start: int, stop: int) -> np.ndarray:
            rows = read_rows(dataset, name, start, stop)
            return on_device_dtype(name, rows, lambda row: whose(start + row))

        return put(dataset.columns[name].shape[1:], read)

    return Rows(
        examples={name: column(name) for name in dataset.columns},
        client=put((), lambda start, stop: client[start:stop]),
        first=place.each((), lambda device: firsts[device].astype(np.uint32)),
        count=place.each((), lambda device: counts[device].astype(np.int32)),
    )


def _small(share: int) -> int:
    return max(_LEAST, 2 ** (min(share, _SMALL) - 1).bit_length())


def put_model(model: Model, mesh: Mesh | None) -> Model:
    """A copy of the model on each device of the mesh, if it does not lie on them in
    some way already; without a mesh, on one device."""

    def put(x):
        if not isinstance(x, jax.Array):
            return x
        devices = x.sharding.device_set
        if mesh is not None:
            there = devices == set(mesh.devices.flat)
            return x if there else jax.device_put(x, NamedSharding(mesh, whole))
        # A training on a mesh leaves copies, and all that hold one would do the work.
        return (
            x.addressable_data(0) if len(devices) > 1 and x.is_fully_replicated else x
        )

    whole = PartitionSpec()
    return jtu.tree_map(put, model)
