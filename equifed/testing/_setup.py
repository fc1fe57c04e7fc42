"""What the laws have in common: an algorithm on a few ragged clients, two rounds of it,
and a comparison.
"""

from collections.abc import Callable

import equinox as eqx
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .._algorithm import AbstractAlgorithm, State
from .._cohort import Cohort
from .._executor import Executor
from .._types import Loss
from ..data import AbstractBatching, AllClients, Epochs, Loader
from ._problems import Linear, noisy_loss, ragged_clients


Make = Callable[[Loss, AbstractBatching], AbstractAlgorithm]

# Empty clients, one-example clients, and sizes that no batch size divides.
SIZES = (5, 0, 1, 12, 3, 7)
TOLERANCE = 1e-5


def setup(make: Make) -> tuple[AbstractAlgorithm, Loader, State]:
    algorithm = make(noisy_loss, Epochs(2, batch_size=4))
    loader = Loader(ragged_clients(SIZES), AllClients(), algorithm.batching)
    return algorithm, loader, algorithm.init(Linear(), num_clients=len(SIZES))


def assert_same(x: PyTree, y: PyTree, tolerance: float = TOLERANCE) -> None:
    x, y = eqx.filter(x, eqx.is_array), eqx.filter(y, eqx.is_array)
    for (path, a), b in zip(
        jtu.tree_leaves_with_path(x), jtu.tree_leaves(y), strict=True
    ):
        np.testing.assert_allclose(
            np.asarray(a, np.float64),
            np.asarray(b, np.float64),
            rtol=tolerance,
            atol=tolerance,
            err_msg=jtu.keystr(path),
        )


def two_rounds(
    algorithm: AbstractAlgorithm,
    loader: Loader,
    state: State,
    executor: Executor,
    change: Callable[[Cohort], Cohort] = lambda cohort: cohort,
) -> tuple[State, dict]:
    """Two, because what clients and servers keep shows only in the second."""
    metrics = {}
    for number in range(2):
        cohort = change(loader(number))
        state, metrics = algorithm.round(
            state, cohort, key=jr.key(1), executor=executor
        )
    return state, metrics
