"""Messages that are kept as they come, and encoded once all of them are there."""

from typing import Any

import jax
import jax.random as jr
from jaxtyping import Array, Int, PyTree

from .._aggregator import AbstractAggregator
from .._bits import each_of, SENT
from .._cohort import NO_CLIENT
from .._contract import check_encoded
from .._executor.blocks import only_if, Pass
from .._executor.in_order import in_order
from .._metrics import AbstractMetric
from .._tree import tree_isfinite
from .._wire import Message


class _Held(AbstractAggregator):
    """Leaves the messages as they are, stacked."""

    @property
    def gathers(self):
        return True

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        return message, {}

    def decode(self, encoded, state, *, key):
        raise NotImplementedError("Another aggregator decodes.")


def encoded(
    work: Pass, message: Message, index: Int[Array, " messages"]
) -> tuple[PyTree[Array], dict[str, AbstractMetric]]:
    """What a pass makes of stacked messages: see `Pass.one`."""

    def one(message: Message, index: Int[Array, ""]) -> Any:
        key = jr.split(jr.fold_in(work.key, index))[1]
        out = work.aggregator.encode(message, work.state, key=key)
        coded, measured = check_encoded(work.aggregator, out)
        present = index != NO_CLIENT
        finite = tree_isfinite((message.payload, message.stats, message.weight))
        counts = {name: message.weight > 0 for name in SENT}
        measured = {
            name: only_if(present & counts.get(name, finite), x)
            for name, x in measured.items()
        }
        if work.ledger is not None:
            measured |= each_of(measured, work.ledger == index)
        return only_if(present, coded), measured

    kept, count = jax.vmap(one)(message, index), index.size
    capacity = count if work.aggregator.gathers else None
    return in_order(kept, index, None, capacity=capacity, count=count)
