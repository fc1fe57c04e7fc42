"""How the examples of a centralised set are given to clients.

A partition reads some columns of the set and answers with the row numbers of each
client. The same seed gives the same clients on every machine.

The sizes and the labels of the clients are what makes federated learning hard, so
they are what the partitions control: `IIDPartition` neither, `QuantityPartition` the
sizes, `ShardPartition` and `DirichletPartition` the labels, `ColumnPartition` follows
the data's own clients.
"""

import abc
import re
from collections.abc import Iterable, Mapping

import equinox as eqx
import numpy as np
from jaxtyping import Int, Shaped

from ._random import (
    check_count,
    check_seed,
    dirichlet,
    generator,
    PARTITION,
    permutation,
    uniforms,
)


class AbstractPartition(eqx.Module):
    """Gives the examples of a set to clients."""

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


class ColumnPartition(AbstractPartition):
    """One client for each value of a column.

    The clients are in natural order: by the text of the value, with runs of digits
    compared as numbers, so that `"writer2"` comes before `"writer10"`.
    """

    column: str

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


class IIDPartition(AbstractPartition):
    """Clients of equal size (up to one example), drawn without regard to anything."""

    num_clients: int
    seed: int

    def __init__(self, num_clients: int, *, seed: int = 0):
        """**Arguments:**

        - `num_clients`: The number of clients.
        - `seed`: The seed of the split.
        """
        self.num_clients = num_clients
        self.seed = seed

    def __check_init__(self):
        check_count("num_clients", self.num_clients)
        check_seed(self.seed)

    @property
    def column_names(self) -> tuple[str, ...]:
        return ()

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        _check_enough(num_examples, self.num_clients, "num_clients")
        rows = permutation(generator(self.seed, PARTITION), num_examples)
        return _named(np.array_split(rows, self.num_clients))


class QuantityPartition(AbstractPartition):
    """Clients whose sizes follow a power law, with examples drawn at random.

    Client `i` gets a share in proportion to `(i + 1) ** -exponent`, after `min_size`
    examples have been given to everyone.
    """

    num_clients: int
    exponent: float
    min_size: int
    seed: int

    def __init__(
        self,
        num_clients: int,
        exponent: float = 1.0,
        *,
        min_size: int = 1,
        seed: int = 0,
    ):
        """**Arguments:**

        - `num_clients`: The number of clients.
        - `exponent`: How unequal they are; with 0 they have equal sizes.
        - `min_size`: The fewest examples that a client may have.
        - `seed`: The seed of the split.
        """
        self.num_clients = num_clients
        self.exponent = exponent
        self.min_size = min_size
        self.seed = seed

    def __check_init__(self):
        check_count("num_clients", self.num_clients)
        check_seed(self.seed)
        _check_min_size(self.min_size)
        if not (np.isfinite(self.exponent) and self.exponent >= 0):
            raise ValueError(
                f"`exponent` must be finite and not negative, got {self.exponent}."
            )

    @property
    def column_names(self) -> tuple[str, ...]:
        return ()

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        needed = self.num_clients * self.min_size
        _check_enough(num_examples, needed, "num_clients * min_size")
        shares = np.arange(1.0, self.num_clients + 1) ** -self.exponent
        cuts = np.cumsum(shares)[:-1] / shares.sum() * (num_examples - needed)
        cuts = np.rint(cuts).astype(np.int64)
        cuts += self.min_size * np.arange(1, self.num_clients)
        rows = permutation(generator(self.seed, PARTITION), num_examples)
        return _named(np.split(rows, cuts))


class ShardPartition(AbstractPartition):
    """Clients with few labels: the examples are sorted by label and cut into shards of
    equal size, and each client gets `shards_per_client` random ones.

    ??? cite "Reference"

        ```bibtex
        @inproceedings{mcmahan2017communication,
            title={Communication-Efficient Learning of Deep Networks from Decentralized
                Data},
            author={McMahan, Brendan and Moore, Eider and Ramage, Daniel and Hampson,
                Seth and Agüera y Arcas, Blaise},
            booktitle={AISTATS},
            year={2017},
        }
        ```
    """

    num_clients: int
    shards_per_client: int
    label: str
    seed: int

    def __init__(
        self,
        num_clients: int,
        shards_per_client: int = 2,
        *,
        label: str = "label",
        seed: int = 0,
    ):
        """**Arguments:**

        - `num_clients`: The number of clients.
        - `shards_per_client`: How many shards each of them gets.
        - `label`: The column to sort by.
        - `seed`: The seed of the split.
        """
        self.num_clients = num_clients
        self.shards_per_client = shards_per_client
        self.label = label
        self.seed = seed

    def __check_init__(self):
        check_count("num_clients", self.num_clients)
        check_count("shards_per_client", self.shards_per_client)
        check_seed(self.seed)

    @property
    def column_names(self) -> tuple[str, ...]:
        return (self.label,)

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        num_shards = self.num_clients * self.shards_per_client
        _check_enough(num_examples, num_shards, "num_clients * shards_per_client")
        _, labels = client_codes(columns[self.label], self.label)
        rng = generator(self.seed, PARTITION)
        # Within a label the examples are in random order.
        rows = permutation(rng, num_examples)
        rows = rows[np.argsort(labels[rows], kind="stable")]
        shards = np.array_split(rows, num_shards)
        dealt = permutation(rng, num_shards).reshape(self.num_clients, -1)
        return _named(np.concatenate([shards[i] for i in d]) for d in dealt)


class DirichletPartition(AbstractPartition):
    """Clients with skewed labels, by a Dirichlet distribution of concentration `alpha`.

    A small `alpha` gives clients with one or two labels, a large one tends to the
    independent and identically distributed case. There are two ways to use it:

    - `balanced=False`: each label's examples are divided among the clients in
        proportions drawn from `Dirichlet(alpha, ..., alpha)`. The clients' sizes vary
        too. The draw is repeated until every client has `min_size` examples.
    - `balanced=True`: each client draws the distribution of its labels from
        `Dirichlet(alpha * p)`, where `p` is that of the whole set, and then as many
        examples as any other client. A label that has run out is left out, so the last
        clients are less skewed. This is the partition of Hsu et al.

    Every example is given to exactly one client.

    ??? cite "Reference"

        ```bibtex
        @article{hsu2019measuring,
            title={Measuring the Effects of Non-Identical Data Distribution for
                Federated Visual Classification},
            author={Hsu, Tzu-Ming Harry and Qi, Hang and Brown, Matthew},
            journal={arXiv preprint arXiv:1909.06335},
            year={2019},
        }
        ```
    """

    num_clients: int
    alpha: float
    label: str
    balanced: bool
    min_size: int
    seed: int

    def __init__(
        self,
        num_clients: int,
        alpha: float,
        *,
        label: str = "label",
        balanced: bool = False,
        min_size: int = 0,
        seed: int = 0,
    ):
        """**Arguments:**

        - `num_clients`: The number of clients.
        - `alpha`: The concentration; positive.
        - `label`: The column of labels.
        - `balanced`: Whether all clients have the same size (up to one example).
        - `min_size`: The fewest examples that a client may have.
        - `seed`: The seed of the split.
        """
        self.num_clients = num_clients
        self.alpha = alpha
        self.label = label
        self.balanced = balanced
        self.min_size = min_size
        self.seed = seed

    def __check_init__(self):
        check_count("num_clients", self.num_clients)
        check_seed(self.seed)
        _check_min_size(self.min_size)
        if not (np.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"`alpha` must be finite and positive, got {self.alpha}.")

    @property
    def column_names(self) -> tuple[str, ...]:
        return (self.label,)

    def __call__(
        self,
        columns: Mapping[str, Shaped[np.ndarray, "examples ..."]],
        num_examples: int,
    ) -> dict[str, Int[np.ndarray, "_"]]:
        needed = self.num_clients * self.min_size
        _check_enough(num_examples, needed, "num_clients * min_size")
        _, labels = client_codes(columns[self.label], self.label)
        rng = generator(self.seed, PARTITION)
        rows = permutation(rng, num_examples)
        pools = [rows[labels[rows] == label] for label in range(labels.max() + 1)]
        if self.balanced:
            return _named(self._draw(pools, num_examples, rng))
        for _ in range(1000):
            clients = self._divide(pools, rng)
            if min(len(c) for c in clients) >= self.min_size:
                return _named(clients)
        raise ValueError(
            f"No draw of `DirichletPartition({self.num_clients}, {self.alpha})` in "
            f"1000 gave each client {self.min_size} of the {num_examples} examples. "
            "Raise `alpha`, or lower `min_size` or `num_clients`."
        )

    def _divide(self, pools, rng):
        clients = [[] for _ in range(self.num_clients)]
        for pool in pools:
            shares = dirichlet(rng, np.full(self.num_clients, float(self.alpha)))
            cuts = np.rint(np.cumsum(shares)[:-1] * len(pool)).astype(np.int64)
            for client, part in zip(clients, np.split(pool, cuts), strict=True):
                client.append(part)
        return [np.concatenate(parts) for parts in clients]

    def _draw(self, pools, num_examples, rng):
        left = np.array([len(pool) for pool in pools])
        prior = left / left.sum()
        sizes = np.diff(
            np.arange(self.num_clients + 1) * num_examples // self.num_clients
        )
        for size in sizes:
            skew = dirichlet(rng, self.alpha * prior)
            counts = np.zeros(len(pools), np.int64)
            while (missing := int(size - counts.sum())) > 0:
                shares = np.where(counts < left, skew, 0.0)
                if not shares.any():
                    shares = (left - counts).astype(np.float64)
                ends = np.cumsum(shares)
                draws = uniforms(rng, missing) * ends[-1]
                labels = np.searchsorted(ends, draws, side="right")
                labels = np.minimum(labels, np.flatnonzero(shares)[-1])
                counts += np.bincount(labels, minlength=len(pools))
                counts = np.minimum(counts, left)
            ends = left
            left = left - counts
            yield np.concatenate(
                [pool[a:b] for pool, a, b in zip(pools, left, ends, strict=True)]
            )


def natural_key(client_id: str) -> tuple:
    """The key of the natural order: runs of digits compare as numbers."""
    parts = re.split(r"([0-9]+)", client_id)
    parts[1::2] = [int(digits) for digits in parts[1::2]]  # pyright: ignore
    return (parts, client_id)


def client_codes(
    values: Shaped[np.ndarray, "examples ..."], name: str
) -> tuple[list[str], Int[np.ndarray, " examples"]]:
    """The distinct values as strings in natural order, and each row's place among
    them."""
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(
            f"Column {name!r} has rows of shape {values.shape[1:]}; clients and labels "
            "are told apart by single values."
        )
    missing = (
        np.array([v is None or v != v for v in values]).sum()
        if (values.dtype.kind in "fO")
        else 0
    )
    if missing:
        raise ValueError(
            f"Column {name!r} has {missing} nulls among its {len(values)} rows. Drop "
            "those rows, or fill in whom they belong to."
        )
    distinct, codes = np.unique(values, return_inverse=True)
    return rank_codes([as_id(v) for v in distinct.tolist()], codes.reshape(-1))


def rank_codes(
    names: list[str], codes: Int[np.ndarray, " examples"]
) -> tuple[list[str], Int[np.ndarray, " examples"]]:
    """Renumbers codes so that their names are in natural order."""
    order = sorted(range(len(names)), key=lambda i: natural_key(names[i]))
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    return [names[i] for i in order], rank[codes]


def as_id(value: object) -> str:
    """A client id is text; anything else is turned into it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def _named(
    clients: Iterable[Int[np.ndarray, "_"]],
) -> dict[str, Int[np.ndarray, "_"]]:
    return {str(i): rows for i, rows in enumerate(clients)}


def _check_enough(num_examples: int, needed: int, name: str) -> None:
    if num_examples < needed:
        raise ValueError(
            f"`{name}` is {needed}, but there are only {num_examples} examples. Ask "
            "for fewer clients."
        )


def _check_min_size(min_size: int) -> None:
    if min_size < 0:
        raise ValueError(f"`min_size` must not be negative, got {min_size}.")
