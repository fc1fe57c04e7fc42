"""Clients that differ in a number, by sorting and cutting with noise."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import ArrayLike, Int, Shaped

from ..._check import check_count, check_number, check_seed, checked
from .._random import generator, normals, PARTITION, permutation
from .base import AbstractPartition, check_enough, named


class ContinuousPartition(AbstractPartition):
    r"""Clients of equal size (up to one example) that differ in a number, such as a
    loudness or an age.

    The examples are sorted by $\sigma z + (1 - \sigma) \varepsilon$, where $z$ is their
    number, standardised over all of them, and $\varepsilon$ is standard normal. Then
    they are cut into clients. With a `strictness` $\sigma$ of 0 clients are all alike,
    with 1 no two of them overlap.
    """

    num_clients: int
    column: str
    strictness: float
    seed: int

    @checked()
    def __init__(
        self, num_clients: int, column: str, strictness: ArrayLike, *, seed: int = 0
    ):
        """**Arguments:**

        - `num_clients`: The number of clients.
        - `column`: The column of numbers to sort by.
        - `strictness`: From 0 to 1.
        - `seed`: The seed of the split.
        """
        check_number("strictness", strictness, least=0, most=1)
        self.num_clients = check_count("num_clients", num_clients)
        self.column = column
        self.strictness = float(np.asarray(strictness))
        self.seed = check_seed(seed)

    @property
    def column_names(self) -> tuple[str, ...]:
        return (self.column,)

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        check_enough(num_examples, self.num_clients, "num_clients")
        values = np.asarray(columns[self.column])
        if values.ndim != 1 or values.dtype.kind not in "biuf":
            raise ValueError(
                f"Column {self.column!r} holds {values.dtype} of shape "
                f"{values.shape[1:]}, which cannot be sorted by; name one of single "
                "numbers."
            )
        values = values.astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad) > 0:
            raise ValueError(
                f"Column {self.column!r} has {len(bad)} values that are not finite, "
                f"the first in row {bad[0]}. Fill them in, or drop those rows."
            )
        if self.strictness > 0 and values.min() == values.max():
            raise ValueError(
                f"All values of column {self.column!r} are {values[0]:g}: there is "
                "nothing to sort by. Name another column, or use `IIDPartition`."
            )
        rng = generator(self.seed, PARTITION)
        # Shuffled first: which of equal values comes first is drawn.
        rows = permutation(rng, num_examples)
        spread = values.std() or 1.0
        scores = self.strictness * (values[rows] - values.mean()) / spread
        scores += (1 - self.strictness) * normals(rng, num_examples)
        rows = rows[np.argsort(scores, kind="stable")]
        return named(np.array_split(rows, self.num_clients))
