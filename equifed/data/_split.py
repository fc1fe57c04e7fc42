"""Which clients, and which examples, are held out or kept at random.

A choice among the examples of a client depends on its id and the seed, and on no other
client.
"""

import numpy as np
from jaxtyping import Bool, Int

from .._check import check_number, check_seed
from .._share import round_share
from ._clients import AbstractClients
from ._random import counter_of, generator, permutation, SPLIT


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
    dataset: AbstractClients, held_out: float, seed: int
) -> Bool[np.ndarray, " rows"]:
    """Holds out a fraction of each client's rows, but never all of them."""
    _check_fraction(held_out)
    sizes = dataset.client_sizes
    counts = np.maximum(np.minimum(round_share(held_out, sizes), sizes - 1), 0)
    if not counts.any():
        raise ValueError(
            f"`held_out` is {held_out}, which is no example of any client: the largest "
            f"has {sizes.max()}. Hold out more."
        )
    return random_rows(dataset, counts, seed)


def random_rows(
    dataset: AbstractClients, counts: Int[np.ndarray, " clients"], seed: int
) -> Bool[np.ndarray, " rows"]:
    """Chooses `counts[i]` of the rows of client `i`."""
    seed = check_seed(seed)
    chosen = np.zeros(dataset.num_examples, bool)
    for i, client_id in enumerate(dataset.client_ids):
        start, stop = dataset.offsets[i], dataset.offsets[i + 1]
        if counts[i] == stop - start:
            chosen[start:stop] = True
        elif counts[i] > 0:
            rng = generator(seed, SPLIT, counter_of(client_id))
            rows = permutation(rng, int(stop - start))[: counts[i]]
            chosen[start + rows] = True
    return chosen


def _check_fraction(held_out: float) -> None:
    check_number("held_out", held_out)
    if not 0 < held_out < 1:
        raise ValueError(f"`held_out` must be a fraction in (0, 1), got {held_out}.")
