"""A round's passes, as messages to the clients and back.

A client who does not answer, answers with an error, or with something else than it was
asked for, has dropped out: it is counted, and is not asked again in this round.
"""

from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Int, PyTree

from .._cohort import NO_CLIENT
from .._round import State
from .._round.elsewhere import Elsewhere
from .._warn import warn
from ._arrays import (
    arrays_of,
    check_arrays,
    from_wire,
    to_wire,
    Wire,
    wire_kind,
    WrongReply,
)
from ._client import TRAIN
from ._roster import Member
from ._transport import AbstractTransport, Reply, Request


_WEIGHT = "message.weight"


class Passes:
    """The passes of one round."""

    def __init__(
        self,
        parts: Elsewhere,
        transport: AbstractTransport,
        members: dict[int, Member],
        state: State,
        config: dict[str, Any],
        since: np.ndarray,
        oldest: np.ndarray,
    ):
        """**Arguments:**

        - `members`: the clients of the round.
        - `state`: whose `clients` is what every client begins with.
        - `config`: what all messages of the round say.
        - `since`: for each client of the population, the last round from which it
            keeps something; -1 if there is none.
        - `oldest`: likewise, as of the last checkpoint.
        """
        self._parts, self._transport, self._members = parts, transport, members
        self._state, self._config = state, config
        self._since, self._oldest = since, oldest
        self.asked: set[int] = set()
        self.dropped: set[int] = set()
        self.nonfinite: set[int] = set()
        """Who sent a number that is not finite."""

    def __call__(
        self,
        number: int,
        down: dict[str, Array],
        rows: dict[int, Array],
        index: Int[Array, "devices slots"],
    ) -> tuple[PyTree, dict[int, Array], Int[Array, "devices slots"]]:
        """Asks all clients of a pass who have not dropped out."""
        places = np.asarray(index)[0]
        wanted = {int(i) for i in places if i != NO_CLIENT} - self.dropped
        shared = {name: to_wire(x) for name, x in down.items()}
        sent = {j: to_wire(x)[0] for j, x in rows.items()}
        requests = [
            self._request(
                number, i, shared, {j: x[_place(places, i)] for j, x in sent.items()}
            )
            for i in sorted(wanted)
        ]
        self.asked |= wanted
        client_of = {self._members[i].node: i for i in wanted}
        answers: dict[int, Wire] = {}
        for reply in self._transport.exchange(requests):
            client = client_of.pop(reply.node, None)
            if client is None:
                continue  # Nobody asked, or it has answered already.
            try:
                answers[client] = self._read(number, client, reply)
            except WrongReply as error:
                warn(f"Client {client} has dropped out of a round. {error}")
        self.dropped |= wanted - set(answers)
        return self._stacked(number, places, answers, sent)

    def _request(
        self, number: int, client: int, shared: Wire, rows: dict[int, np.ndarray]
    ) -> Request:
        own = {f"state{j}": x for j, x in rows.items()}
        config = dict(self._config) | {"pass": number}
        if self._parts.keeps:
            config |= {"since": int(self._since[client])}
            config |= {"oldest": int(self._oldest[client])}
            if self._since[client] < 0:
                initial = enumerate(jtu.tree_leaves(self._state.clients))
                own |= {f"kept{i}": to_wire(x) for i, x in initial}
        else:
            config |= {"since": -1, "oldest": -1}
        node = self._members[client].node
        return Request(node, TRAIN, shared, own, config, config["round"])

    def _read(self, number: int, client: int, reply: Reply) -> Wire:
        """What a client said, in the form in which it should have said it."""
        if reply.error is not None:
            raise WrongReply(reply.error)
        plan, (_, states) = self._parts.passes[number], self._parts.kind_of(number)
        what = "Its reply"
        metrics = {n: x for n, x in plan.up.items() if n.startswith("metrics")}
        arrays = {n: x for n, x in plan.up.items() if n not in metrics}
        arrays |= {f"state{j}": states[j] for j in plan.reports}
        check_arrays(reply.arrays, arrays, what)
        if not np.isfinite(reply.arrays.get(_WEIGHT, 0.0)).all():
            weight = reply.arrays[_WEIGHT]
            raise WrongReply(f"{what} has {weight} as its weight, which is no number.")
        if any(_is_broken(x) for x in reply.arrays.values()):
            self.nonfinite.add(client)
        return reply.arrays | arrays_of(reply.metrics, metrics, what)

    def _stacked(
        self,
        number: int,
        places: np.ndarray,
        answers: dict[int, Wire],
        sent: dict[int, np.ndarray],
    ) -> tuple[PyTree, dict[int, Array], Array]:
        """The answers along the slots; those of nobody are zeros."""
        plan, (_, states) = self._parts.passes[number], self._parts.kind_of(number)

        def along_slots(name: str, like: Any, before: np.ndarray | None) -> Array:
            kind = wire_kind(like, (1, len(places)))
            out = (
                np.zeros(kind.shape, kind.dtype)
                if before is None
                else before[None].copy()
            )
            for slot, client in enumerate(places.tolist()):
                if client in answers:
                    out[0, slot] = answers[client][name]
            return from_wire(out, like)

        said = {name: along_slots(name, x, None) for name, x in plan.up.items()}
        reported = {
            j: along_slots(f"state{j}", states[j], sent.get(j)) for j in plan.reports
        }
        heard = [i if i in answers else NO_CLIENT for i in places.tolist()]
        index: Array = jax.device_put(np.asarray([heard], np.int32))
        return self._parts.stacked(number, said), reported, jnp.asarray(index)


def _is_broken(x: np.ndarray | np.generic) -> bool:
    return x.dtype.kind == "f" and not np.isfinite(x).all()


def _place(places: np.ndarray, client: int) -> tuple[Any, ...]:
    """The slot of a client, as an index whose result is an array."""
    return (int(np.argmax(places == client)), ...)
