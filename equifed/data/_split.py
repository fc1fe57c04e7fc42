"""Which clients, and which examples, are held out or kept at random.

A choice among the examples of a client depends on its id and the seed, and on no other
client.
"""

import numpy as np
from jaxtyping import Bool, Int

from .._check import check_kind, check_number, check_seed
from .._share import round_share
from ._clients import AbstractClients
from ._column import check_names
from ._ids import client_codes
from ._random import counter_of, generator, permutation, raw, SPLIT


def random_clients(
    num_clients: int, held_out: float | int, seed: int
) -> Bool[np.ndarray, " clients"]:
    """Holds out some of the clients: a fraction of all, or so many."""
    check_number("held_out", held_out)
    if np.asarray(held_out).dtype.kind in "iu":
        count = int(held_out)
    else:
        _check_fraction(held_out)
        count = round_share(held_out, num_clients)
    if not 0 < count < num_clients:
        raise ValueError(
            f"`held_out` is {held_out}, which leaves {num_clients - count} seen and "
            f"{count} unseen of {num_clients} clients. Neither side may be empty."
        )
    rng = generator(check_seed(seed), SPLIT)
    chosen = np.zeros(num_clients, bool)
    chosen[permutation(rng, num_clients)[: int(count)]] = True
    return chosen


def random_fraction(
    dataset: AbstractClients, held_out: float, seed: int, stratify: str | None = None
) -> Bool[np.ndarray, " rows"]:
    """Holds out a fraction of each client's rows, but never all of them; of each label
    in the column `stratify` alike, if it is named."""
    _check_fraction(held_out)
    sizes = dataset.client_sizes
    counts = np.maximum(np.minimum(round_share(held_out, sizes), sizes - 1), 0)
    if not counts.any():
        raise ValueError(
            f"`held_out` is {held_out}, which is no example of any client: the largest "
            f"has {sizes.max()}. Hold out more."
        )
    labels = None if stratify is None else _labels(dataset, stratify)
    return random_rows(dataset, counts, seed, labels)


def random_rows(
    dataset: AbstractClients,
    counts: Int[np.ndarray, " clients"],
    seed: int,
    labels: Int[np.ndarray, " rows"] | None = None,
) -> Bool[np.ndarray, " rows"]:
    """Chooses `counts[i]` of the rows of client `i`, of each label alike if there are
    any."""
    seed = check_seed(seed)
    chosen = np.zeros(dataset.num_examples, bool)
    for i, client_id in enumerate(dataset.client_ids):
        start, stop = dataset.offsets[i], dataset.offsets[i + 1]
        if counts[i] == stop - start:
            chosen[start:stop] = True
        elif counts[i] > 0:
            rng = generator(seed, SPLIT, counter_of(client_id))
            rows = permutation(rng, int(stop - start))
            if labels is None:
                rows = rows[: counts[i]]
            else:
                rows = _of_each(labels[start:stop], rows, int(counts[i]), rng)
            chosen[start + rows] = True
    return chosen


def _labels(dataset: AbstractClients, name: str) -> Int[np.ndarray, " rows"]:
    check_kind("stratify", name, str, "Name a column of labels.")
    check_names([name], dataset.columns)
    return client_codes(np.asarray(dataset.columns[name]), name)[1]


def _of_each(
    labels: Int[np.ndarray, " rows"],
    order: Int[np.ndarray, " rows"],
    count: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, " chosen"]:
    """The first rows in this order of each label: `count` of all, in the labels'
    proportions by the largest remainder."""
    _, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    # In integers: a remainder in floating point would not be exact.
    counts, remainders = np.divmod(count * sizes, len(labels))
    # Equal ones are drawn, lest the same label is short with every client.
    largest = np.lexsort((raw(rng, len(sizes)), -remainders))
    counts[largest[: count - counts.sum()]] += 1
    by_label = order[np.argsort(codes[order], kind="stable")]
    place = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return by_label[place < np.repeat(counts, sizes)]


def _check_fraction(held_out: float) -> None:
    check_number("held_out", held_out)
    if not 0 < held_out < 1:
        raise ValueError(f"`held_out` must be a fraction in (0, 1), got {held_out}.")
