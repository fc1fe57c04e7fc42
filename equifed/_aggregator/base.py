"""How many messages become one.

An aggregator has two halves. `encode` runs once for each message, next to the client
that sent it. `decode` runs once, at the server. Between them the executor does one of
two things, and the aggregator's `gathers` says which: it *sums* what was encoded, so
that nothing but a running total is ever kept, or it *gathers* all of it, for the few
rules (a median, say) that must see every message.

Wrappers such as `Clip` change a message and pass it on, so they go around either kind.
"""

import abc

import equinox as eqx
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._metrics import AbstractMetric
from .._overrides import inherit_types
from .._types import AggregatorState
from .._wire import Aggregate, Message


class AbstractAggregator(eqx.Module):
    """Turns the messages of a cohort into one [`equifed.Aggregate`][].

    A message of weight 0 must count as absent, whatever its payload.
    """

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @property
    @abc.abstractmethod
    def gathers(self) -> bool:
        """Whether `decode` is given all that was encoded, rather than its sum."""

    @abc.abstractmethod
    def init(self, payload: PyTree) -> AggregatorState:
        """What is kept between rounds; `None` if nothing.

        **Arguments:**

        - `payload`: of the structure, shapes and dtypes of a message's payload.
        """

    @abc.abstractmethod
    def encode(
        self, message: Message, state: AggregatorState, *, key: PRNGKeyArray
    ) -> tuple[PyTree[Array], dict[str, AbstractMetric]]:
        """One message, made ready for the sum or for the gathering; and metrics of it,
        which are summed over the cohort with those of the clients."""

    @abc.abstractmethod
    def decode(
        self, encoded: PyTree[Array], state: AggregatorState, *, key: PRNGKeyArray
    ) -> tuple[Aggregate, AggregatorState, dict[str, AbstractMetric]]:
        """The sum over the messages, or all of them stacked along a leading axis (in
        the order of the clients' numbers, with messages of weight 0 among them), as
        one aggregate; the new state; and metrics of the round."""


class Total(eqx.Module):
    """The sums that a mean is made from."""

    payload: PyTree[Array]
    stats: PyTree[Array]
    weight: Float[Array, ""]
    count: Float[Array, ""]


class Gathered(eqx.Module):
    """All the messages, stacked."""

    message: Message

    @property
    def present(self) -> Array:
        return self.message.weight > 0

    @property
    def count(self) -> Int[Array, ""]:
        return self.present.sum()
