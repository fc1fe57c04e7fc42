"""What each client has sent and was sent, to the bit."""

import dataclasses

import jax.numpy as jnp
import jax.tree_util as jtu

from .._bits import EACH, SENT
from .._check import checked
from .._cohort import NO_CLIENT
from .._metrics import AbstractMetric, add_metrics
from .around import _AbstractWithItsState
from .base import AbstractAlgorithm
from .diagnose import OfRound
from .inside import check_once


class Ledger(_AbstractWithItsState):
    """Wraps an algorithm: its rounds are as they were, and tell what each client has
    sent and was sent.

    The metrics of a round have as well `ledger_clients`, the numbers of its clients in
    ascending order, and of each of them, in all passes, `ledger_up` and `ledger_down`,
    whose sums are `bits_up` and `bits_down`, exactly. Where messages are compressed
    they have `ledger_up_entropy` and `ledger_up_arithmetic` too, or those of
    `ledger_down`. There are as many
    entries as the cohort has places: in what is left the numbers are -1, the bits 0.

    One that was asked and sent nothing, because it has no examples, was sent its part
    all the same. One that a clock ([`equifed.clock.SynchronousClock`][]) has lost is in
    no cohort, and not here.

    A logger takes numbers alone; [`equifed.rounds`][] and the history of
    [`equifed.train`][] have the arrays, in the history as whole numbers.

    **Arguments:**

    - `algorithm`: any. The ledger goes around all other wrappers.

    !!! example

        ```python
        solution = eqf.train(eqf.Ledger(algorithm), model, loader, ...)
        sent = np.zeros(loader.num_clients, int)
        for row in solution.history:
            there = row["ledger_clients"] >= 0
            sent[row["ledger_clients"][there]] += row["ledger_up"][there]
        ```
    """

    algorithm: AbstractAlgorithm

    @checked()
    def __init__(self, algorithm: AbstractAlgorithm):
        self.algorithm = algorithm

    def __check_init__(self):
        check_once(self)

    def begin(self, params, *, num_clients, key):
        return self.algorithm.begin(params, num_clients=num_clients, key=key)

    def step(self, state, clients, *, key):
        asked = dataclasses.replace(clients, _ledger=clients.index)
        state, metrics, accept = self.algorithm.step(state, asked, key=key)
        metrics, index = dict(metrics), clients.index.reshape(-1)
        order = jnp.argsort(index)
        numbers = jnp.where(index == NO_CLIENT, -1, index)[order]
        found: dict[str, AbstractMetric] = {"ledger_clients": OfRound(numbers)}
        for name in filter(metrics.__contains__, SENT):
            if EACH[name] not in metrics:
                raise ValueError(
                    f"`{type(self.algorithm).__name__}.step` reports `{name}` of its "
                    "own making, not those of a pass, so that nobody knows whose they "
                    "are. Report `outcome.metrics`, to which `equifed.add_bits` adds "
                    "those of other passes, and `clients.bits` what the step counts."
                )
            found[EACH[name]] = jtu.tree_map(
                lambda x: x.reshape(index.size, *x.shape[2:])[order],
                metrics.pop(EACH[name]),
            )
        return state, add_metrics(metrics, found), accept
