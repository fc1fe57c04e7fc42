"""The local solver that FedAvg, FedProx, SCAFFOLD, FedDyn and FedNova share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.random as jr
from jaxtyping import PRNGKeyArray, PyTree

from .._check import checked
from .._cohort import ClientData
from .._noise import reseed_noise
from .._optim import as_optim, Optim, OptimLike
from .._tree import safe_divide, tree_add, tree_sub
from .._types import Example, Loss, Params
from .._wire import Broadcast, Message, sent_statistics
from ..data import AbstractBatching
from .base import AbstractClient
from .correction import AbstractCorrection, NoCorrection
from .criterion import AbstractCriterion, MeanLoss
from .gradient import BatchLoss, full_gradient, merge_metrics, zero_metrics
from .microbatched import check_whole
from .reach import only, reached
from .stateful import statistics_in, with_statistics


class LocalSGD(AbstractClient):
    r"""Runs an optimiser over the client's batches, from the broadcast model.

    From $\theta_0 = x$, step $k$ takes the mean gradient of the $k$-th batch, lets
    the correction change it, and hands it to the optimiser. The message is the
    change $\theta_K - x$, weighted by the client's number of examples. The
    optimiser's own state starts afresh in every round; noise that it draws follows
    from the client's key. An optimiser that wants `value` (Optax's `polyak_sgd`) is
    given the batch's mean loss, without what the correction or the criterion adds.

    **Arguments:**

    - `loss`: of one example, `loss(model, example, key)`.
    - `optim`: an Optax optimiser.
    - `batching`: how the client's examples are visited.
    - `correction`: what is added to each gradient against client drift.
    - `criterion`: what is minimised over a batch, if not the mean loss. The gradient
        over all its data that a correction may ask for at the start of a round
        (SCAFFOLD's option I) stays that of the loss.
    """

    loss: Loss
    optim: Optim
    batching: AbstractBatching
    correction: AbstractCorrection
    criterion: AbstractCriterion
    follows_loss = True

    @checked()
    def __init__(
        self,
        loss: Loss,
        optim: OptimLike,
        batching: AbstractBatching,
        correction: AbstractCorrection = NoCorrection(),  # noqa: B008 (no array)
        criterion: AbstractCriterion = MeanLoss(),  # noqa: B008 (no array)
    ):
        if not isinstance(criterion, MeanLoss):
            check_whole(loss, type(criterion).__name__)
        self.loss = loss
        self.optim = as_optim(optim, gives=("value",))
        self.batching = batching
        self.correction = correction
        self.criterion = criterion

    @property
    def sends(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.correction.sends

    @property
    def carries_state(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        # A criterion calls the model as it likes, and not over a batch.
        return isinstance(self.criterion, MeanLoss)

    def init(self, params):
        return self.correction.init(params)

    def payload(self, params):
        return self.correction.payload(params)

    def round(self, broadcast, data, state, *, key):
        carry, step = self._begin(broadcast, data, state, key=key)
        return self._end(broadcast, data, data.fold(step, carry))

    def _begin(
        self, broadcast: Broadcast, data: ClientData, state: Any, *, key: PRNGKeyArray
    ) -> tuple[PyTree, Callable]:
        """What the steps of a round carry, the params first, and one of them: also for
        a client that takes them beside others."""
        start, rest = broadcast.params, broadcast.rest
        where = reached(self.loss, broadcast, data.example)
        step_key, pass_key, noise_key = jr.split(key, 3)
        optim = reseed_noise(self.optim, noise_key)
        given = self.criterion.begin(broadcast, data)

        def gradient(
            at: Params, statistics: Any, examples: Example, mask: Any, key: Any
        ) -> Any:
            others = with_statistics(statistics, rest)
            batch = (self.loss, others, examples, mask, key)
            f = BatchLoss(*batch, criterion=self.criterion, given=given)
            return f.gradient_and_state(at)

        def of_all(at: Params) -> Params:
            batch_size = self.batching.batch_size
            at = Broadcast(at, rest)
            return full_gradient(self.loss, at, data, batch_size, key=pass_key)[0]

        def step(carry, examples, mask, i):
            params, optim_state, correction, statistics, metrics = carry
            key = jr.fold_in(step_key, i)
            batch = (statistics, examples, mask, key)
            grads, new, model_state = gradient(params, *batch)

            def elsewhere(at: Params) -> Params:
                return gradient(at, *batch[:-1], jr.clone(key))[0]

            grads, correction = self.correction.correct(
                grads, params, correction, elsewhere
            )
            average: Any = new["loss"]
            updates, optim_state = optim.update(
                grads,
                optim_state,
                params,
                value=safe_divide(average.total, average.weight),
            )
            params = only(where, tree_add(params, updates), params)
            metrics = merge_metrics(metrics, new)
            statistics = statistics_in(model_state, statistics)
            return params, optim_state, correction, statistics, metrics

        carry = (
            start,
            reseed_noise(optim.init(start), noise_key),
            self.correction.begin(start, broadcast.shared, state, of_all),
            broadcast.statistics,
            zero_metrics(self.loss, broadcast.model, data.example),
        )
        return carry, step

    def _end(self, broadcast: Broadcast, data: ClientData, carry: PyTree) -> Any:
        """What `round` returns, of what its steps carry at the end."""
        params, _, correction, statistics, metrics = carry
        delta = tree_sub(params, broadcast.params)
        payload, state = self.correction.end(delta, data.num_steps, correction)
        message = Message(payload, data.weight)
        if statistics is not None:
            sent = sent_statistics(statistics, broadcast.statistics)
            message = dataclasses.replace(message, statistics=sent)
        return message, state, metrics
