"""What a server is: from the model and an aggregate to the next model."""

import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import PRNGKeyArray, PyTree

from .._overrides import inherit_types
from .._types import Params, ServerState
from .._wire import Aggregate


class AbstractServer(eqx.Module):
    """The server's part of a round. It sees params: the leaves that are trained."""

    understands: ClassVar[tuple[str, ...]] = ()
    """As what it reads messages, if not any: see `AbstractClient.sends`."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def init(self, params: Params, *, num_clients: int) -> ServerState:
        """What the server keeps between rounds."""

    @abc.abstractmethod
    def broadcast(self, params: Params, state: ServerState) -> PyTree:
        """What goes down to the clients beside the model; `None` if nothing."""

    @abc.abstractmethod
    def round(
        self,
        params: Params,
        aggregate: Aggregate,
        state: ServerState,
        *,
        key: PRNGKeyArray,
    ) -> tuple[Params, ServerState]:
        """The next params, and the next state. The key is this round's."""
