"""What a server needs of an engine: who is there, and messages that are answered."""

import abc
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ._arrays import Numbers, Wire


class Request(NamedTuple):
    """A message to a node."""

    node: int
    kind: str
    shared: Wire
    """What all of these messages have in common."""
    own: Wire
    config: dict[str, Any]
    round: int


class Reply(NamedTuple):
    """What a node answered, or why it did not."""

    node: int
    arrays: Wire
    metrics: Numbers
    config: dict[str, Any]
    error: str | None = None


def by_node(replies: Iterable[Reply]) -> dict[int, Reply]:
    """What each node answered: the first, if a reply comes twice."""
    found: dict[int, Reply] = {}
    for reply in replies:
        found.setdefault(reply.node, reply)
    return found


class AbstractTransport(abc.ABC):
    """Carries messages to nodes and back."""

    @abc.abstractmethod
    def nodes(self) -> list[int]:
        """The nodes that are connected."""

    @abc.abstractmethod
    def exchange(self, requests: Sequence[Request]) -> list[Reply]:
        """Sends messages and waits. Nodes that say nothing in time are left out."""

    @abc.abstractmethod
    def sleep(self) -> None:
        """Waits for nodes to connect."""
