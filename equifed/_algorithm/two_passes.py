"""What a round of two passes says, each of which has an aggregator of the user's."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._bits import add_bits
from .._executor import Outcome
from .._metrics import AbstractMetric, Sum


def of_both(
    first: Outcome, last: Outcome
) -> tuple[dict[str, AbstractMetric], Bool[Array, ""]]:
    """The metrics of the last pass, with the bits of both, and whether both accept.

    A rule that does not accept what it was sent says so in the metric `rejected`, which
    is then that of the round.
    """
    accept = first.aggregate.accept & last.aggregate.accept
    metrics = add_bits(last.metrics, first.metrics)
    if "rejected" in first.metrics or "rejected" in last.metrics:
        metrics["rejected"] = Sum((~accept).astype(jnp.result_type(float)))
    return metrics, accept
