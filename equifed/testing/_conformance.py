r"""Does an algorithm find the answer that its paper says it finds?

On two clients $f_i(x) = \frac{a_i}{2} (x - b_i)^2$ with different curvatures, many
local steps carry each client close to its own $b_i$, and FedAvg settles away from the
minimum of the mean. An algorithm that corrects client drift does not.
"""

from collections.abc import Callable

import jax.random as jr
import numpy as np

from .._algorithm import AbstractAlgorithm
from .._check import checked
from .._training import rounds
from .._types import Loss
from ..data import AbstractBatching, AbstractSampler, AllClients, Loader, Steps
from ._problems import Point, quadratic_loss, Quadratics


# Only the last round of them is looked at.
AT_A_TIME = 100
TWO_CLIENTS = Quadratics((1.0, 4.0), (1.0, -1.0), (4, 4))


@checked()
def run(
    make: Callable[[Loss, AbstractBatching], AbstractAlgorithm],
    problem: Quadratics = TWO_CLIENTS,
    *,
    num_rounds: int,
    batching: AbstractBatching | None = None,
    sampler: AbstractSampler | None = None,
    start: float = 3.0,
    rounds_per_call: int = 1,
) -> list[float]:
    """The server's `x` at the start and after each round, or each call.

    **Arguments:**

    - `make`: `make(loss, batching)` builds the algorithm.
    - `batching`: ten steps a round if not given.
    - `sampler`: all clients in every round if not given.
    - `rounds_per_call`: how many rounds are run before `x` is looked at again. For
        hundreds of rounds of which only the last counts, 100 take a fraction of the
        time.
    """
    batching = Steps(10, batch_size=4) if batching is None else batching
    sampler = AllClients() if sampler is None else sampler
    algorithm = make(quadratic_loss, batching)
    loader = Loader(problem.dataset(), sampler, batching)
    state = algorithm.init(Point(start), num_clients=len(problem))
    iterates = [start]
    for state, _ in rounds(  # noqa: B020
        algorithm,
        state,
        loader,
        num_rounds=num_rounds,
        key=jr.key(0),
        rounds_per_call=rounds_per_call,
    ):
        iterates.append(float(state.model.x))
    return iterates


@checked()
def check_reaches_optimum(
    make: Callable[[Loss, AbstractBatching], AbstractAlgorithm],
    problem: Quadratics = TWO_CLIENTS,
    *,
    num_rounds: int = 300,
    weighted: bool = False,
    tolerance: float = 1e-4,
    batching: AbstractBatching | None = None,
    sampler: AbstractSampler | None = None,
) -> None:
    r"""Checks that an algorithm reaches the minimum of the clients' mean objective.

    **Arguments:**

    - `make`: `make(loss, batching)` builds the algorithm.
    - `weighted`: whether clients count by their numbers of examples.

    **Raises:**

    `AssertionError` if it ends further than `tolerance` from the minimum.
    """
    last = run(
        make,
        problem,
        num_rounds=num_rounds,
        batching=batching,
        sampler=sampler,
        rounds_per_call=max(1, min(num_rounds, AT_A_TIME)),
    )[-1]
    optimum = problem.optimum(weighted=weighted)
    assert abs(last - optimum) <= tolerance, (
        f"After {num_rounds} rounds x = {last:.6f}; the minimum is at {optimum:.6f}."
    )


@checked()
def fedavg_fixed_point(
    problem: Quadratics, learning_rate: float, num_steps: list[int]
) -> float:
    r"""Where FedAvg settles: with $\rho_i = (1 - \eta a_i)^{K_i}$ and weights $n_i$,
    $x = \sum_i n_i (1 - \rho_i) b_i \big/ \sum_i n_i (1 - \rho_i)$."""
    a, b, n = (
        np.asarray(v)
        for v in (problem.curvatures, problem.centres, problem.num_examples)
    )
    pull = n * (1 - (1 - learning_rate * a) ** np.asarray(num_steps))
    return float((pull * b).sum() / pull.sum())
