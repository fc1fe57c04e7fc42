"""The rounds that one process of a server runs, one after another."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .._checkpoint import Checkpointer
from .._cohort import Cohort, NO_CLIENT
from .._history import plain, ROUND, Row
from .._metrics import compute_metrics
from .._round import State
from .._round.elsewhere import Elsewhere
from .._round.travels import without_examples
from .._tree import leaves_by_path
from .._warn import warn
from .._words import listed
from ..data import AbstractLoader
from ..data._draw import drawn_of
from ._arrays import arrays_of, to_wire, WrongReply
from ._client import EVALUATE
from ._passes import Passes
from ._plan import evaluated, example_of, measured
from ._roster import Roster
from ._transport import AbstractTransport, by_node, Request


class Rounds:
    """The rounds of one process."""

    def __init__(
        self,
        server: Any,
        transport: AbstractTransport,
        roster: Roster,
        parts: Elsewhere,
        state: State,
    ):
        self._server, self._transport = server, transport
        self._roster, self._parts = roster, parts
        self.state, self._initial = dataclasses.replace(state, clients=None), state
        nobody = np.full((server.num_clients,), -1, np.int32)
        self._since = self._oldest = nobody
        self._history: list[Row] = []

    def all(self) -> list[Row]:
        server = self._server
        fingerprint = None
        if server._checkpointer is not None:
            loader = _Elsewhere(server)
            fingerprint = Checkpointer.fingerprint(
                *(server.algorithm, server.model, loader),
                key=server._key,
                roles=server._roles,
            )
            self._restore(server._checkpointer, fingerprint)
        first = int(self.state.round)
        server._logger.start(server.num_rounds, first)
        for round in range(first, server.num_rounds):
            if round > first:
                self._roster.refresh()
            row = self._one(round)
            if server._every and (round + 1) % server._every == 0:
                row |= self._evaluate(round)
            self._history.append(row)
            server._logger.log(round + 1, row)
            checkpointer, last = server._checkpointer, round + 1 == server.num_rounds
            if checkpointer is not None and (
                last or checkpointer.should_save(round + 1)
            ):
                saved, history = self._saved(), self._history
                checkpointer.save(
                    *(round + 1, saved, history),
                    fingerprint=fingerprint,
                    roles=server._roles,
                )
                self._oldest = self._since
            if checkpointer is None:
                self._oldest = self._since  # Nobody goes back.
        return self._history

    def _saved(self) -> State:
        """With the rounds from which clients keep something, in place of that."""
        since = jnp.asarray(self._since) if self._parts.keeps else None
        return dataclasses.replace(self.state, clients=since)

    def _restore(self, checkpointer: Checkpointer, fingerprint: Any) -> None:
        found = checkpointer.restore(self._saved(), fingerprint=fingerprint)
        if found is None:
            return
        _, state, self._history = found
        if self._parts.keeps:
            self._since = self._oldest = np.array(state.clients)
        self.state = dataclasses.replace(state, clients=None)

    def _one(self, round: int) -> Row:
        """One round."""
        server, members = self._server, self._roster.members
        slots = server._config["slots"]
        drawn = np.sort(drawn_of(server.sampler, round, server.num_clients, slots))
        there = [i for i in drawn.tolist() if i in members]
        passes = Passes(
            self._parts,
            self._transport,
            members,
            self._initial,
            server._config
            | {"round": round, "seed": server.sampler.seed}
            | {"passes": self._roster.passes},
            self._since,
            self._oldest,
        )
        before = dataclasses.replace(self.state, clients=self._initial.clients)
        cohort = self._cohort(there)
        after, metrics, accept = self._parts.run(
            server.algorithm, before, cohort, server._key, passes
        )
        if bool(accept) and self._parts.keeps:
            self._since = self._since.copy()
            self._since[sorted(passes.asked - passes.dropped)] = round
        self.state = after
        row: Row = {ROUND: round + 1, **{n: plain(x) for n, x in metrics.items()}}
        if row["nonfinite_model"] > 0:
            who = listed([str(i) for i in sorted(passes.nonfinite)])
            also = f" Nor is what clients sent, by number: {who}." if who else ""
            warn(
                f"The model of round {round + 1} is not finite: it was rejected.{also}"
            )
        dropped = len(set(drawn.tolist()) - set(there)) + len(passes.dropped)
        return row | {"dropped": dropped}

    def _cohort(self, there: list[int]) -> Cohort:
        server, members = self._server, self._roster.members
        batching = server.algorithm.batching
        example = example_of(self._roster.columns)
        num_slots = server._config["slots"]
        cohort = without_examples(example, num_slots, batching.batch_size)
        sizes = np.asarray([members[i].num_examples for i in there], np.int64)
        rows = {
            "index": (np.asarray(there), NO_CLIENT),
            "num_examples": (sizes, 0),
            "stop": (batching.num_steps(sizes), 0),
        }
        slots = {}
        for name, (values, fill) in rows.items():
            row = np.full((1, num_slots), fill, np.int32)
            row[0, : len(there)] = values
            slots[name] = jax.device_put(row)
        return dataclasses.replace(cohort, **slots)

    def _evaluate(self, round: int) -> Row:
        """The metrics of all clients that are there, on their own test examples."""
        server, members = self._server, self._roster.members
        state = dataclasses.replace(self.state, clients=self._initial.clients)
        model, names = evaluated(server.algorithm, state)
        found = leaves_by_path(model)
        shared = {name: to_wire(found[name]) for name in names}
        like = measured(server._metrics, model, self._roster.columns)
        leaves = leaves_by_path(like)
        requests = [
            Request(members[i].node, EVALUATE, shared, {}, server._config, round)
            for i in sorted(members)
        ]
        total: dict[str, np.ndarray] | None = None
        replies = by_node(self._transport.exchange(requests))
        for request in requests:  # In the order of the clients.
            reply = replies.get(request.node)
            if reply is None:
                continue
            try:
                if reply.error is not None:
                    raise WrongReply(reply.error)
                sums = arrays_of(reply.metrics, leaves, "Its reply")
            except WrongReply as error:
                warn(f"A client has not evaluated the model. {error}")
                continue
            total = (
                sums if total is None else {n: total[n] + x for n, x in sums.items()}
            )
        if total is None:
            return {}
        metrics = jtu.tree_unflatten(
            jtu.tree_structure(like), [jnp.asarray(total[n]) for n in leaves]
        )
        return {f"test/{n}": plain(x) for n, x in compute_metrics(metrics).items()}


class _Elsewhere(AbstractLoader):
    """For the fingerprint: who the clients are and what they have is not known."""

    def __init__(self, server: Any):
        self.batching = server.algorithm.batching
        self._num_clients = server.num_clients

    @property
    def num_clients(self) -> int | None:
        return self._num_clients

    def cohorts(
        self, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Cohort]]:
        raise NotImplementedError
