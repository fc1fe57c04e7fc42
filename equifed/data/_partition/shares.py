"""Clients whose sizes are a function of their numbers."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int, Shaped

from ..._check import check_choice, check_count, check_seed, checked
from ..._words import shown
from .._random import generator, PARTITION, permutation
from .base import AbstractPartition, check_enough, named


class SharesPartition(AbstractPartition):
    r"""Clients whose sizes are in proportion to a function of their numbers, with
    examples drawn at random.

    Client $i = 1, \dots, n$ gets the share $f(i) / \sum_j f(j)$ of the examples,
    rounded down; the last one gets what is left. $f(i)$ is $i$ (`"linear"`), $i^2$
    (`"square"`), $e^i$ (`"exponential"`), or a function of your own.
    """

    num_clients: int
    share: str | Callable
    seed: int

    @checked()
    def __init__(
        self,
        num_clients: int,
        share: str | Callable = "linear",
        *,
        seed: int = 0,
    ):
        """**Arguments:**

        - `num_clients`: The number of clients.
        - `share`: `"linear"`, `"square"`, `"exponential"`, or a function that takes
            the array of the numbers $1, ..., n$ and returns one positive number for
            each.
        - `seed`: The seed of the split.

        **Raises:**

        `ValueError` if a client would have no example, once the number of these is
        known. An exponential share leaves so little to the first of more than a few
        clients.
        """
        self.num_clients = check_count("num_clients", num_clients)
        if isinstance(share, str):
            check_choice("share", share, tuple(_SHARES))
        self.share = share
        self.seed = check_seed(seed)

    @property
    def column_names(self) -> tuple[str, ...]:
        return ()

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        check_enough(num_examples, self.num_clients, "num_clients")
        shares = self._shares()
        # Multiplied first: of 55 examples, 3 / 55 are 3 and not 2.999.
        sizes = np.floor(shares * num_examples / shares.sum()).astype(np.int64)
        sizes[-1] += num_examples - sizes.sum()
        empty = np.flatnonzero(sizes < 1)
        if len(empty) > 0:
            raise ValueError(
                f"With `share` as it is, {len(empty)} of the {self.num_clients} "
                f"clients, the first of them number {empty[0]}, would have none of the "
                f"{num_examples} examples. Ask for fewer clients, or for shares that "
                "differ less."
            )
        rows = permutation(generator(self.seed, PARTITION), num_examples)
        return named(np.split(rows, np.cumsum(sizes)[:-1]))

    def _shares(self) -> Float[np.ndarray, " clients"]:
        fn = _SHARES[self.share] if isinstance(self.share, str) else self.share
        answer = fn(np.arange(1.0, self.num_clients + 1))
        shares = np.asarray(answer)
        fits = shares.shape == (self.num_clients,) and shares.dtype.kind in "iuf"
        if not fits or not (np.isfinite(shares) & (shares > 0)).all():
            raise ValueError(
                "`share` must return a positive, finite number for each of the "
                f"{self.num_clients} clients, got {shown(answer)}. Write "
                "`lambda i: i**1.5`, for example."
            )
        return shares.astype(np.float64)


# Only proportions count, so the largest exponential may be 1.
_SHARES: dict[str, Callable] = {
    "linear": lambda i: i,
    "square": lambda i: i**2,
    "exponential": lambda i: np.exp(i - i[-1]),
}
