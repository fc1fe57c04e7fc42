"""What a sampler draws, checked."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from .._check import check_count
from .._words import shown
from ._arrays import as_numbers
from ._dataset import FederatedDataset
from ._sampler import AbstractSampler
from ._sampler.base import Among


def draw(
    sampler: AbstractSampler,
    round: int,
    dataset: FederatedDataset,
    *,
    limit: int,
    there: Bool[np.ndarray, " population"] | None = None,
    most: int | None = None,
    among: Among | None = None,
) -> Int[np.ndarray, " clients"]:
    """The clients that a sampler draws, if they are some of the dataset's; of those
    that are there, by `among`, if it matters. `limit` is `most_of` it."""
    if there is None or among is None:
        return drawn_of(sampler, round, dataset.num_clients, limit)
    return _checked(
        among(round, there, most), sampler, round, dataset.num_clients, limit
    )


def drawn_of(
    sampler: AbstractSampler, round: int, num_clients: int, limit: int
) -> Int[np.ndarray, " clients"]:
    """The clients that a sampler draws, if they are some of so many."""
    drawn = sampler(round, num_clients)
    return _checked(drawn, sampler, round, num_clients, limit)


def _checked(
    drawn: Any, sampler: AbstractSampler, round: int, num_clients: int, limit: int
) -> Int[np.ndarray, " clients"]:
    name = f"`{type(sampler).__name__}`"
    clients = as_numbers(drawn)
    if clients is None:
        raise TypeError(
            f"{name} must draw client numbers, an array of integers, got "
            f"{shown(drawn)} in round {round}. For a mask return "
            "`np.flatnonzero(mask)`."
        )
    outside = clients[(clients < 0) | (clients >= num_clients)]
    if len(outside) > 0:
        raise ValueError(
            f"{name} drew client number {outside[0]} in round {round}, but they go "
            f"from 0 to {num_clients - 1}."
        )
    if len(clients) > limit:
        raise ValueError(
            f"{name} drew {len(clients)} clients in round {round}, but its "
            f"`max_clients` is {limit}."
        )
    return clients


def is_ours(sampler: AbstractSampler) -> bool:
    """Whether it may be asked for a round ahead of its turn: one of the user's own may
    take its time, or wait for something."""
    return type(sampler).__module__.startswith("equifed.")


def most_of(sampler: AbstractSampler, dataset: FederatedDataset) -> int:
    """The most clients that a round can have."""
    name = f"{type(sampler).__name__}.max_clients"
    kind, size = type(sampler), dataset.num_clients
    return check_count(name, kind.max_clients(sampler, size), least=0)
