"""Clients that train their personal leaves first, and then the shared ones."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PyTree

from .._check import check_count, checked
from .._optim import OptimLike
from .._tree import split_params, tree_add
from .._types import Loss, Params
from .._wire import Broadcast, CHANGE, got_statistics, Message, sent_statistics
from ..data import AbstractBatching
from .gradient import merge_metrics
from .keeping import AbstractKeeping, Kept, with_own, without_own
from .local_sgd import LocalSGD
from .stateful import with_statistics


class Alternating(AbstractKeeping):
    r"""Trains the personal leaves $v_i$ with the shared ones $u$ as they were sent, and
    then the shared ones with the new personal ones.

    Of every $a + b$ parts of a client's planned steps the first $a$ are for the
    personal leaves, rounded down, and the last $b$ for the shared ones. So with
    `Epochs(a + b, ...)` they are $a$ epochs and $b$. Each phase has its own optimiser,
    which starts afresh. The statistics of a model with a state follow the batches of
    both, in order: the second begins with those that the first ended with.

    **Arguments:**

    - `loss`, `batching`: as in [`equifed.FedAvg`][].
    - `personal_optim`, `shared_optim`: the optimisers of the phases.
    - `personal_parts`, `shared_parts`: $a$ and $b$.
    """

    first: LocalSGD
    then: LocalSGD
    personal_parts: int
    shared_parts: int
    personal: Params
    sends = (CHANGE,)
    follows_loss = True
    carries_state = True

    @checked()
    def __init__(
        self,
        loss: Loss,
        personal_optim: OptimLike,
        shared_optim: OptimLike,
        batching: AbstractBatching,
        *,
        personal_parts: int = 1,
        shared_parts: int = 1,
    ):
        self.first = LocalSGD(loss, personal_optim, batching)
        self.then = LocalSGD(loss, shared_optim, batching)
        self.personal_parts = check_count("personal_parts", personal_parts)
        self.shared_parts = check_count("shared_parts", shared_parts)
        self.personal = None

    @property
    def loss(self) -> Loss:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.first.loss

    @property
    def batching(self) -> AbstractBatching:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.first.batching

    def init(self, params):
        return Kept(None, self.personal)

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        own, kept = split_params(state.personal)
        whole = with_own(broadcast, kept)
        shared, rest, start = whole.params, whole.rest, whole.statistics
        first_key, then_key = jr.split(key)
        parts = self.personal_parts + self.shared_parts
        middle = data.num_steps * self.personal_parts // parts
        sent = Broadcast(own, eqx.combine(shared, rest), statistics=start)
        phase = data.between(jnp.zeros_like(middle), middle)
        change, _, metrics = self.first.round(sent, phase, None, key=first_key)
        own = tree_add(own, change.payload)
        now = _after(change, start)
        rest = with_statistics(now, eqx.combine(own, rest))
        sent = Broadcast(shared, rest, statistics=now)
        phase = data.between(middle, data.num_steps)
        change, _, more = self.then.round(sent, phase, None, key=then_key)
        metrics = merge_metrics(metrics, more)
        now = _after(change, now)
        message = Message(change.payload, data.weight)
        if start is not None:
            now = sent_statistics(now, start)
            message = dataclasses.replace(message, statistics=now)
        message, kept = without_own(message, broadcast, kept)
        return message, Kept(None, eqx.combine(own, kept)), metrics


def _after(message: Message, before: PyTree) -> PyTree:
    """The statistics that a phase ended with."""
    return None if before is None else got_statistics(message.statistics, before)
