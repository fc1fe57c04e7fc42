"""The data's own clients, several to one."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Int, Shaped

from ..._check import check_choice, check_count, checked
from .._ids import client_codes
from .base import AbstractPartition, named


Remainder = Literal["smaller", "bigger", "drop", "refuse"]


class GroupedPartition(AbstractPartition):
    """Clients of several of a column's values each, such as hospitals of patients.

    The values are taken in natural order, `group_size` at a time.
    """

    column: str
    group_size: int
    remainder: str

    @checked()
    def __init__(
        self, column: str, group_size: int, *, remainder: Remainder = "smaller"
    ):
        """**Arguments:**

        - `column`: The column of the data's own clients.
        - `group_size`: How many of them make one client.
        - `remainder`: What becomes of values that are too few for a group:
            `"smaller"` makes one smaller last group of them, `"bigger"` gives the first
            groups one or more values more, `"drop"` leaves out their examples,
            `"refuse"` is an error.
        """
        self.column = column
        self.group_size = check_count("group_size", group_size)
        check_choice("remainder", remainder, ("smaller", "bigger", "drop", "refuse"))
        self.remainder = remainder

    @property
    def column_names(self) -> tuple[str, ...]:
        return (self.column,)

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        ids, codes = client_codes(columns[self.column], self.column)
        group_of = self._groups(len(ids))[codes]
        rows = np.argsort(group_of * len(ids) + codes, kind="stable")
        rows = rows[group_of[rows] >= 0]
        cuts = np.flatnonzero(np.diff(group_of[rows])) + 1
        return named(np.split(rows, cuts))

    def _groups(self, num_ids: int) -> Int[np.ndarray, " ids"]:
        """The group of each value; -1 for none."""
        whole, left = divmod(num_ids, self.group_size)
        if self.remainder == "smaller":
            return np.arange(num_ids) // self.group_size
        if whole == 0 or (left and self.remainder == "refuse"):
            raise ValueError(
                f"Column {self.column!r} has {num_ids} values, which is no multiple of "
                f"`group_size`, {self.group_size}. Write another one, or "
                "`remainder='smaller'`."
            )
        if self.remainder == "bigger":
            parts = np.array_split(np.arange(num_ids), whole)
            return np.repeat(np.arange(whole), [len(part) for part in parts])
        groups = np.arange(num_ids) // self.group_size
        return np.where(groups < whole, groups, -1)
