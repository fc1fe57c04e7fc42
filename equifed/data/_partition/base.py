"""What a partition is, and what all of them check."""

import abc
from collections.abc import Iterable, Mapping

import equinox as eqx
import numpy as np
from jaxtyping import Int, Shaped

from ..._overrides import inherit_types


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
