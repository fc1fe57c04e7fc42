"""What a message may hold where only its payload is protected."""

from typing import Any

import jax.tree_util as jtu

from .._wire import check_additive, Message


def check_plain(message: Message, aggregator: Any) -> None:
    """Refuses what is not summed number by number, or would go beside the sum."""
    check_additive(message.payload, aggregator)
    if jtu.tree_leaves(message.stats):
        raise ValueError(
            f"`{type(aggregator).__name__}` takes the payload of a message alone, but "
            "this client sends `stats` as well (a number of steps, or a layer's "
            "statistics), which would go as they are. Take an algorithm that sends "
            "none, such as `FedAvg`, and a model without an `eqx.nn.State`."
        )
