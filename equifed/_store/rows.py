"""What stands in a `State` for an array of all clients that is not on the device."""

from typing import Any

import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .._words import shown
from .store import Store


class ClientRows:
    """What all clients keep of one array of their states: a row for each of them,
    wherever they lie.

    It is read like an array, and holds nothing: `rows[7]` is that of client 7,
    `rows[[1, 5]]` those of two, as NumPy's arrays; `numpy.asarray(rows)` is all of
    them. Later rounds change what it reads, as they use up the state that it is of.
    """

    def __init__(self, store: Store, leaf: int):
        self._store, self._leaf = store, leaf

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._store.num_clients, *self._store.initial[self._leaf].shape)

    @property
    def dtype(self) -> np.dtype:
        return self._store.initial[self._leaf].dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return len(self) * self._store.initial[self._leaf].size

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self._store.num_clients

    def __getitem__(self, index: Any) -> Any:
        clients, *inner = index if isinstance(index, tuple) and index else (index,)
        if clients is None or clients is Ellipsis:
            return np.asarray(self)[index]
        try:
            numbers = np.arange(len(self))[clients]
        except (IndexError, TypeError, ValueError) as error:
            raise IndexError(
                f"Rows are read by the numbers of clients, from 0 to {len(self) - 1}, "
                f"got {shown(clients)}. Write `rows[3]` or `rows[[1, 5]]`."
            ) from error
        rows = self._store.read(self._leaf, numbers.reshape(-1))
        read = np.arange(numbers.size).reshape(numbers.shape)
        # A slice leaves the other indices alone, and an array is paired with theirs.
        of_read = slice(None) if isinstance(clients, slice) else read
        return rows[(of_read, *inner)]

    def __array__(
        self,
        dtype: Any = None,
        copy: bool | None = None,  # noqa: FBT001 (NumPy's)
    ) -> np.ndarray:
        if copy is False:
            raise ValueError("The rows of clients are read, and so are always a copy.")
        return np.asarray(self[:], dtype=dtype)

    def __repr__(self) -> str:
        inside = ",".join(map(str, self.shape))
        return f"ClientRows({self.dtype}[{inside}], {self._store.place.name})"


def store_of(states: PyTree) -> Store | None:
    """The store of clients' states; `None` if they are arrays of JAX's, or nothing."""
    leaves = jtu.tree_leaves(states)
    stores = {id(x._store): x._store for x in leaves if isinstance(x, ClientRows)}
    if not stores:
        return None
    if len(stores) > 1 or not all(isinstance(x, ClientRows) for x in leaves):
        raise ValueError(
            "The clients' states must all lie in one place, got some of a store and "
            "others not. Take the state that `init`, `rounds` or `train` returned."
        )
    return next(iter(stores.values()))


def rows_of(store: Store) -> PyTree:
    """The states of all clients, as a `State` has them."""
    leaves = [ClientRows(store, i) for i in range(len(store.initial))]
    return jtu.tree_unflatten(store.treedef, leaves)
