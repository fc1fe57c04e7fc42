"""A pass that only measures."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .._aggregator import UniformMean
from .._client import MeasuresLoss
from .._executor import Outcome, Participants
from .._round import State
from .._types import Loss
from .._wire import Broadcast
from ..data import AbstractBatching
from .base import AbstractAlgorithm


def measured_losses(
    clients: Participants,
    loss: Loss,
    batching: AbstractBatching,
    sent: Broadcast,
    *,
    key: PRNGKeyArray,
) -> Outcome:
    """Every client's mean loss over all its examples, as its state; minus infinity for
    one that would take no step. What was sent for it is in the metrics."""
    unknown = jnp.full(clients.index.shape, -jnp.inf, jnp.result_type(float))
    measures = MeasuresLoss(loss, batching)
    return clients(measures, UniformMean(), sent, unknown, key=key)


def check_one_model(wrapper: Any, algorithm: AbstractAlgorithm, state: State) -> None:
    """Refuses to compare clients by the loss of one of several models."""
    if algorithm.model(state) is None:
        raise ValueError(
            f"`{type(wrapper).__name__}` compares clients by the loss of one model, "
            f"and `{type(algorithm).__name__}` trains several. Wrap an algorithm that "
            "trains one."
        )
