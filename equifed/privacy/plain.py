"""What a message may hold where only its payload is protected."""

from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, PyTree

from .._tree import tree_isfinite
from .._wire import check_additive, Message


def plain_payload(
    message: Message, aggregator: Any
) -> tuple[PyTree[Array], Bool[Array, ""]]:
    """The payload, all 0 where it counts for nothing: that of a client without
    examples, and one that is not finite; and whether it counts."""
    check_plain(message, aggregator)
    present = (message.weight > 0) & tree_isfinite(message.payload)
    payload = jtu.tree_map(
        lambda x: jnp.where(present, x, jnp.zeros_like(x)), message.payload
    )
    return payload, present


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
