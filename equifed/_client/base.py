"""What a client is: a pure function from a broadcast and its data to a message."""

import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import PRNGKeyArray, PyTree

from .._cohort import ClientData
from .._metrics import AbstractMetric
from .._overrides import inherit_types
from .._types import ClientState, Loss, Params
from .._wire import Broadcast, Message
from ..data import AbstractBatching


class AbstractClient(eqx.Module):
    """One client's part of a round.

    `round` must be pure, and may depend on its slot, its device and the other clients
    in no way: that is what makes results independent of how the round was run.
    """

    loss: eqx.AbstractVar[Loss]
    batching: eqx.AbstractVar[AbstractBatching]
    sends: ClassVar[tuple[str, ...]] = ()
    """As what its messages may be read. A server that `understands` none of it is
    refused; nothing is known of a client that does not say."""
    follows_loss: ClassVar[bool] = False
    """Whether it moves the params along the gradients of its loss and in no other way:
    the server then leaves alone those that the loss does not reach."""

    carries_state: ClassVar[bool] = False
    """Whether it carries the state of a [`equifed.Stateful`][] loss from step to step,
    and says in its message what that has become."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def init(self, params: Params) -> ClientState:
        """What the client keeps between its rounds; `None` if nothing."""

    @abc.abstractmethod
    def payload(self, params: Params) -> PyTree:
        """A tree of the structure, shapes and dtypes of what the client sends: `params`
        itself, if that is a change of them. Aggregators make their state by it."""

    @abc.abstractmethod
    def round(
        self,
        broadcast: Broadcast,
        data: ClientData,
        state: ClientState,
        *,
        key: PRNGKeyArray,
    ) -> tuple[Message, ClientState, dict[str, AbstractMetric]]:
        """Trains on the client's data, and says what it learnt.

        **Arguments:**

        - `broadcast`: what the server sent.
        - `data`: the client's examples and the planned order of its visits.
        - `state`: what `init` or this client's last round returned.
        - `key`: this client's key for this round.

        **Returns:**

        The message for the server, the new state, and metrics that are summed over
        the cohort.
        """
