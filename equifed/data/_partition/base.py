"""What a partition is, and what all of them check."""

import abc
from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Int, Shaped

from ..._check import check_count
from ..._overrides import inherit_types
from ..._words import shown
from .._arrays import as_numbers


class AbstractPartition(eqx.Module):
    """Gives the examples of a set to clients."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @property
    @abc.abstractmethod
    def column_names(self) -> tuple[str, ...]:
        """The columns that the partition reads."""

    @abc.abstractmethod
    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        """Splits the examples.

        **Arguments:**

        - `columns`: At least the columns in `column_names`.
        - `num_examples`: How many examples there are.

        **Returns:**

        For each client id, in the order of the clients, the numbers of its examples.
        """


def named(
    clients: Iterable[Int[np.ndarray, "_"]],
) -> dict[str, Int[np.ndarray, "_"]]:
    return {str(i): rows for i, rows in enumerate(clients)}


def check_enough(num_examples: int, needed: int, name: str) -> None:
    if num_examples < needed:
        raise ValueError(
            f"`{name}` is {needed}, but there are only {num_examples} examples. Ask "
            "for fewer clients."
        )


def as_sizes(sizes: Any) -> tuple[int, ...]:
    """The sizes of clients, if they are some."""
    numbers = as_numbers(sizes)
    if numbers is None or len(numbers) == 0:
        raise TypeError(
            "`sizes` must be a list of integers, the number of examples of each "
            f"client, got {shown(sizes)}. Write `[600] * 100`, for example."
        )
    return tuple(check_count("sizes", size, least=0) for size in numbers)


def check_sum(sizes: tuple[int, ...], num_examples: int) -> None:
    """Refuses sizes of other numbers of examples than there are."""
    total = sum(sizes)
    if total < num_examples:
        raise ValueError(
            f"`sizes` add up to {total}, but there are {num_examples} examples, and "
            f"each is given to somebody. Add a client of {num_examples - total}, and "
            "leave it out of the dataset (`dataset[:-1]`) if nobody is to have them."
        )
    if total > num_examples:
        raise ValueError(
            f"`sizes` add up to {total}, but there are only {num_examples} examples. "
            "Ask for fewer or smaller clients."
        )
