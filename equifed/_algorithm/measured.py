"""A pass that only measures."""

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .._aggregator import UniformMean
from .._client import MeasuresLoss
from .._executor import Outcome, Participants
from .._types import Loss
from .._wire import Broadcast
from ..data import AbstractBatching


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
