"""Finding the block size by trying.

How many clients run best side by side depends on the device, the model and the batch
size; nothing but a measurement tells. So the first round is run at a few sizes, on
copies of the state, until a larger block is no longer faster.
"""

import dataclasses
import time

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PRNGKeyArray

from .._algorithm import AbstractAlgorithm
from .._cohort import Cohort
from .._executor import Executor
from .._round.state import State
from .stepper import Stepper


_SIZES = (1, 2, 4, 8, 16, 32, 64)
_REPEATS = 3


def tuned(
    algorithm: AbstractAlgorithm,
    state: State,
    cohort: Cohort,
    *,
    key: PRNGKeyArray,
    executor: Executor,
) -> Executor:
    """The executor with the block size that runs this round fastest."""
    best, fastest = 1, float("inf")
    for size in _SIZES:
        if size > 1 and size >= 2 * cohort.num_slots:
            break  # One block holds them all already.
        trial = dataclasses.replace(executor, block_size=size)
        taken = _seconds(algorithm, state, cohort, key=key, executor=trial)
        if taken >= fastest:
            break
        best, fastest = size, taken
    return dataclasses.replace(executor, block_size=best)


def _seconds(
    algorithm: AbstractAlgorithm,
    state: State,
    cohort: Cohort,
    *,
    key: PRNGKeyArray,
    executor: Executor,
) -> float:
    # What clients keep is not copied, so it is left alone.
    parts = {"key": key, "executor": executor, "mesh": cohort.mesh}
    step = Stepper(algorithm, state, **parts, keeps=False)
    jax.block_until_ready(step(cohort))  # Compiles.
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(step(cohort))
        times.append(time.perf_counter() - start)
    taken = np.float32(min(times))
    if jax.process_count() > 1:
        # All processes must decide alike, or they would wait for each other for ever.
        taken = multihost_utils.broadcast_one_to_all(taken)
    return float(taken)
