"""Which client is which node. Nodes come and go, and have another id each time; so each
is asked who it is, and how many examples it has, before it takes part.
"""

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from .._check import is_known_integer
from .._warn import warn
from .._words import listed, shown
from ._arrays import WrongReply
from ._client import QUERY
from ._plan import Columns
from ._same import unlike
from ._transport import AbstractTransport, by_node, Reply, Request


class Member(NamedTuple):
    """A client that is there."""

    node: int
    num_examples: int


class Roster:
    """The clients that are there, by number."""

    def __init__(
        self,
        transport: AbstractTransport,
        config: dict[str, Any],
        model: str,
        passes: Callable[[Columns], str],
        made: str,
    ):
        """**Arguments:**

        - `config`: what clients are asked with.
        - `model`: digits of the server's model.
        - `passes`: digits of its passes, for examples of such columns.
        - `made`: what its algorithm and model are made of.
        """
        self._transport, self._config = transport, config
        self._model, self._passes_for, self._made = model, passes, made
        self.members: dict[int, Member] = {}
        self._refused: dict[int, str] = {}
        self._columns: Columns | None = None
        self.passes = ""

    def wait(self, least: int, seconds: float) -> None:
        """Waits until so many clients are there.

        **Raises:**

        `ValueError` if two nodes are one client, or if so many came that they would be
        enough, had not some been refused; `TimeoutError` if too few come.
        """
        end = time.monotonic() + seconds
        while True:
            self.refresh(strict=True)
            count = len(self.members)
            if count >= least:
                return
            if count + len(self._refused) >= least:
                why = " ".join(sorted(set(self._refused.values())))
                raise ValueError(f"{count} of {least} clients can take part. {why}")
            if time.monotonic() >= end:
                raise TimeoutError(
                    f"{count} of {least} clients are there after {seconds:g} seconds. "
                    "Start the nodes of the others, or lower `min_clients`."
                )
            self._transport.sleep()

    def refresh(self, *, strict: bool = False) -> None:
        """Asks nodes that are new who they are, and forgets those that are gone.

        **Arguments:**

        - `strict`: refuse to go on if two nodes are one client, rather than without
            the one that came later.
        """
        nodes = self._transport.nodes()
        there = set(nodes)
        self.members = {n: m for n, m in self.members.items() if m.node in there}
        known = {m.node for m in self.members.values()} | set(self._refused)
        new = [node for node in nodes if node not in known]
        for reply in self._query(new):
            try:
                reason = self._admit(reply, strict=strict)
            except WrongReply as error:
                reason = f"It did not say who it is: {error}."
            except (KeyError, TypeError, json.JSONDecodeError) as error:
                reason = f"It did not say who it is: {error!r}."
            if reason is not None:
                self._refused[reply.node] = reason
                warn(f"A node was refused. {reason}")

    def _query(self, nodes: list[int]) -> list[Reply]:
        if not nodes:
            return []
        requests = [Request(n, QUERY, {}, {}, self._config, 0) for n in nodes]
        found = by_node(self._transport.exchange(requests))
        return [found[node] for node in nodes if node in found]

    def _answers(self, node: int) -> bool:
        return any(reply.error is None for reply in self._query([node]))

    def _admit(self, reply: Reply, *, strict: bool) -> str | None:
        """Why a node may not take part; `None` if it may."""
        if reply.error is not None:
            return f"It answered with an error: {reply.error}"
        about = reply.config
        number = _count("client", about["client"], self._config["clients"] - 1)
        examples = _count("examples", about["examples"], 2**31 - 1)
        columns = _columns(json.loads(about["columns"]))
        if about["model"] != self._model:
            return (
                f"Client {number} has another model, or version of it, than the server."
            )
        if self._columns is None:
            try:
                self.passes = self._passes_for(columns)
            except (KeyError, TypeError) as error:
                return (
                    f"The server cannot train on client {number}'s examples of the "
                    f"columns {_said(columns)}: {error!r}."
                )
            self._columns = columns
        if columns != self.columns:
            return (
                f"Client {number} has examples of the columns {_said(columns)}, but "
                f"others have {_said(self.columns)}. All need the same."
            )
        if about["passes"] != self.passes:
            return (
                f"Client {number} has another algorithm, or version of it, than the "
                "server."
            )
        found = unlike(about["made_of"], self._made)
        if found:
            return (
                f"Client {number} has another algorithm, or version of it, than the "
                f"server (the client's -> the server's): {'; '.join(found[:3])}."
            )
        before = self.members.get(number)
        # Is it the same, started anew, of whom the engine has not heard yet?
        if before is not None and self._answers(before.node):
            two = f"Two nodes are client {number}: give each its own `partition-id`."
            if strict:
                raise ValueError(two)
            return two
        self.members[number] = Member(reply.node, examples)
        return None

    @property
    def columns(self) -> Columns:
        assert self._columns is not None
        return self._columns


def _count(name: str, x: Any, most: int) -> int:
    if not is_known_integer(x) or not 0 <= x <= most:
        raise WrongReply(
            f"`{name}` must be an integer from 0 to {most}, got {shown(x)}"
        )
    return int(x)


def _columns(x: Any) -> Columns:
    fits = isinstance(x, dict) and all(
        isinstance(kind, list)
        and len(kind) == 2
        and isinstance(kind[0], list)
        and all(is_known_integer(size) and size >= 0 for size in kind[0])
        and isinstance(kind[1], str)
        for kind in x.values()
    )
    if not fits:
        raise WrongReply(
            f"`columns` must have a shape and a dtype for each, got {shown(x)}"
        )
    return x


def _said(columns: Columns) -> str:
    return listed([f"{n!r} ({dtype}{shape})" for n, (shape, dtype) in columns.items()])
