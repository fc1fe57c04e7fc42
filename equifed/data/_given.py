"""The cohort of given clients, without a loader: for a round by hand."""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from .._check import check_count, checked
from .._cohort import Cohort
from ._batching import AbstractBatching
from ._clients import check_numbers
from ._dataset import FederatedDataset
from ._loader import Loader
from ._room import Needs
from ._sampler import AbstractSampler, AllClients


@checked(
    dataset="Build one with `FederatedDataset.from_arrays` or its siblings.",
    batching="Write `Epochs(1, batch_size=20)`, for example.",
)
def cohort(
    dataset: FederatedDataset,
    batching: AbstractBatching,
    *,
    clients: Sequence[int]
    | Int[np.ndarray, " clients"]
    | Int[Array, " clients"]
    | None = None,
    round: int = 0,
    seed: int = 0,
    mesh: Mesh | None = None,
    resident: bool = True,
) -> Cohort:
    """Makes a single cohort of given clients.

    **Arguments:**

    - `dataset`: The population.
    - `batching`: How a client visits its examples.
    - `clients`: The numbers of the clients, each as often as it shall take part. By
        default all of them, once.
    - `round`, `seed`: What the clients' orders depend on.
    - `mesh`: The devices that share the cohort, along the axis `clients`.
    - `resident`: Whether the cohort holds the whole dataset or its clients' rows only.
    """
    round = check_count("round", round, least=0)
    sampler = AllClients(seed=seed)
    if clients is not None:
        numbers = check_numbers(clients, dataset.num_clients)
        sampler = _GivenClients(clients=numbers, seed=seed)
    loader = Loader(dataset, sampler, batching, mesh=mesh, resident=resident)
    # Every round has these clients: to look ahead would find what this one needs.
    loader._room = Needs()
    return loader(round)


class _GivenClients(AbstractSampler):
    clients: Int[np.ndarray, " clients"]
    seed: int

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        return self.clients

    def max_clients(self, num_clients: int) -> int:
        return len(self.clients)
