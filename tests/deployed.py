"""An engine within one process: messages as arrays of NumPy's, and nodes that fail."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from equifed.deploy import Client
from equifed.deploy._memory import AbstractMemory, DictMemory
from equifed.deploy._transport import AbstractTransport, Reply, Request


@dataclasses.dataclass
class Node:
    client: Client
    config: dict[str, Any]
    memory: AbstractMemory = dataclasses.field(default_factory=DictMemory)
    change: Callable[[Request, Reply], Reply | None] = lambda request, reply: reply
    """What becomes of a reply: `None` if it never arrives."""


class InProcess(AbstractTransport):
    def __init__(self, nodes: dict[int, Node]):
        self.all = nodes
        self.sent: list[Request] = []

    def nodes(self):
        return list(self.all)

    def sleep(self):
        pass

    def exchange(self, requests):
        self.sent += requests
        replies = [self._answered(request) for request in requests]
        return [x for x in reversed(replies) if x is not None]  # in another order

    def _answered(self, request):
        node = self.all[request.node]
        arrays = request.shared | request.own
        for x in arrays.values():
            assert isinstance(x, np.ndarray)
            assert x.dtype.kind in "biufc"
        try:
            answer = node.client.answer(
                request.kind, arrays, request.config, node.config, node.memory
            )
            reply = Reply(request.node, *answer)
        except Exception as error:  # noqa: BLE001
            reply = Reply(request.node, {}, {}, {}, str(error))
        return node.change(request, reply)
