"""The data's own clients."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, Shaped

from ..._check import check_kind
from .._ids import client_codes
from .base import AbstractPartition


class ColumnPartition(AbstractPartition):
    """One client for each value of a column.

    The clients are in natural order: by the text of the value, with runs of digits
    compared as numbers, so that `"writer2"` comes before `"writer10"`.
    """

    column: str

    def __check_init__(self):
        check_kind("column", self.column, str)

    @property
    def column_names(self) -> tuple[str, ...]:
        return (self.column,)

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        ids, codes = client_codes(columns[self.column], self.column)
        rows = np.argsort(codes, kind="stable")
        sizes = np.bincount(codes, minlength=len(ids))
        return dict(zip(ids, np.split(rows, np.cumsum(sizes)[:-1]), strict=True))
