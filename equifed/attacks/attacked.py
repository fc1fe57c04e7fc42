"""Rounds in which some clients attack.

An attacker may know what the others send, and an aggregator's `encode` knows one
message. So a pass over the clients keeps their messages as they are; the attackers' are
replaced; and what the executor would have done as messages came, encode each and sum or
stack them, is done then.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._aggregator import AbstractAggregator
from .._algorithm import AbstractAlgorithm
from .._bits import EACH, each_of, SENT
from .._check import check_count, checked
from .._cohort import Cohort, NO_CLIENT
from .._contract import check_encoded
from .._executor.blocks import only_if, Pass
from .._executor.in_order import in_order
from .._metrics import AbstractMetric, add_metrics, Sum
from .._tree import rowwise, tree_isfinite
from .._types import Loss
from .._wire import check_additive, Message
from ..data import AbstractBatching
from .base import AbstractAttack, Seen


Knows = Literal["all", "own"]


class Attacked(AbstractAlgorithm):
    """Wraps an algorithm: some of its clients are Byzantine, and send what an attack
    says.

    They train as the algorithm tells them, so that the attack knows what they would
    have sent, and replaces the payload of that in every pass of a round; the weight,
    and the `stats`, stay. The server, its aggregator, whatever it is, and the other
    clients are as they were. A message that is absent stays so: an attacker without
    examples, or that the loader did not draw, sends nothing.

    With no attacker in it a round is that of the algorithm itself, run by
    `Executor(ordered=True)`: with those options to the bit, with others up to the order
    of sums. The metrics are the algorithm's and `byzantine`, the number of messages of
    attackers.

    All messages of a cohort are held at once, as a median does; and as rows of numbers
    once more, for the attack.

    **Arguments:**

    - `algorithm`: any whose messages may be added up.
    - `attack`: what they send. They act together.
    - `clients`: the attackers' numbers, of [`equifed.attacks.byzantine_clients`][] or
        your own choice.
    - `knows`: the messages that they know. `"all"`: those of all honest clients of the
        round, as most papers assume of the worst case ("omniscient"). `"own"`: what
        they would have sent themselves. Where no message of a round is an honest
        client's, these are all that is known.

    What is known is finite: a message with a NaN is not among it. If none is, attackers
    send their own messages.

    **Raises:**

    `ValueError` for numbers of clients that are twice there or that there are not; in
    `init`, if nobody is left who is honest, or, for [`equifed.attacks.ALIE`][], less
    than half of the clients are.

    !!! example

        ```python
        clients = eqf.attacks.byzantine_clients(loader.num_clients, 5, seed=0)
        attacked = eqf.attacks.Attacked(algorithm, eqf.attacks.ALIE(), clients)
        solution = eqf.train(attacked, model, loader, num_rounds=100, key=key)
        ```
    """

    algorithm: AbstractAlgorithm
    attack: AbstractAttack
    clients: Int[Array, " byzantine"]
    knows: Knows

    @checked()
    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        attack: AbstractAttack,
        clients: Sequence[int] | np.ndarray,
        *,
        knows: Knows = "all",
    ):
        for client in clients:
            check_count("clients", client, least=0, most=NO_CLIENT - 1)
        numbers = np.array([int(i) for i in clients], np.int32)
        if len(set(numbers.tolist())) < numbers.size:
            raise ValueError(
                f"`clients` must name each attacker once, got {numbers.tolist()}."
            )
        self.algorithm = algorithm
        self.attack = attack
        self.clients = jnp.asarray(numbers)
        self.knows = knows

    @property
    def loss(self) -> Loss:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.algorithm.loss

    @property
    def batching(self) -> AbstractBatching:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.algorithm.batching

    @property
    def needs(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.algorithm.needs

    @property
    def carries_state(self) -> bool:
        return self.algorithm.carries_state

    def begin(self, params, *, num_clients, key):
        if not isinstance(self.clients, jax.core.Tracer):
            for client in self.clients.tolist():
                check_count("clients", client, least=0, most=num_clients - 1)
            self._check_honest(num_clients)
        return self.algorithm.begin(params, num_clients=num_clients, key=key)

    def _check_honest(self, num_clients: int) -> None:
        """Refuses attackers whom nobody is left to attack, or who are too many."""
        count = self.clients.size
        if count == num_clients:
            raise ValueError(
                f"`clients` names all of the {num_clients} clients: there is no honest "
                "one, whom they could attack. Leave some out."
            )
        if self.attack.needs_minority and count > num_clients // 2:
            raise ValueError(
                f"`{type(self.attack).__name__}` is defined for attackers who are at "
                f"most half of the clients, got {count} of {num_clients}. Name "
                f"{num_clients // 2} or fewer, or take another attack."
            )

    def keep(self, params, personal, begun):
        return self.algorithm.keep(params, personal, begun)

    def step(self, state, clients, *, key):
        def run(work, executor, cohort, states):
            held = dataclasses.replace(work, aggregator=_Held())
            (message, metrics), states = clients._run(held, executor, cohort, states)
            encoded, metrics = self._sent(work, cohort, message, metrics)
            return (encoded, metrics), states

        attacked = dataclasses.replace(clients, _run=run)
        return self.algorithm.step(state, attacked, key=key)

    def model(self, state):
        return self.algorithm.model(state)

    def models(self, state):
        return self.algorithm.models(state)

    def own_model(self, state, kept):
        return self.algorithm.own_model(state, kept)

    def _sent(
        self, work: Pass, cohort: Cohort, message: Message, metrics: dict[str, Any]
    ) -> tuple[PyTree[Array], dict[str, AbstractMetric]]:
        """What the aggregator's `decode` is given, and the metrics of the pass."""
        check_additive(message.payload, self)
        slots = message.weight.size
        index = jnp.sort(cohort.index.reshape(-1))[:slots]
        fill = slots - index.size
        index = jnp.pad(index, (0, fill), constant_values=NO_CLIENT)
        present = message.weight > 0
        byzantine = jnp.isin(index, self.clients) & present

        def aggregate(rows: Array, key: PRNGKeyArray) -> Array:
            sent = _with(message, _unrowed(rows, message.payload))
            encoded, _ = _encoded(work, sent, index)
            out, _, _ = work.aggregator.decode(encoded, work.state, key=key)
            return _row(out.payload)

        finite = jax.vmap(tree_isfinite)(message.payload) & present
        honest = finite & ~byzantine
        own = finite & byzantine
        known = own if self.knows == "own" else jnp.where(honest.any(), honest, own)
        rows = jax.vmap(_row)(message.payload)
        seen = Seen(rows, message.weight, index, byzantine, known, aggregate)
        # No client has this number, nor the one that `decode` has its key of.
        key = jr.fold_in(work.key, NO_CLIENT - 1)
        rows = jnp.broadcast_to(self.attack.attack(seen, key=key), rows.shape)
        turned = byzantine & known.any()
        payload = jtu.tree_map(
            lambda new, old: jnp.where(rowwise(turned, old), new, old),
            _unrowed(rows, message.payload),
            message.payload,
        )
        encoded, measured = _encoded(work, _with(message, payload), index)
        # Of what is sent the aggregator has the last word.
        coded = [name for name in (*SENT, *EACH.values()) if name in measured]
        metrics = {name: x for name, x in metrics.items() if name not in coded}
        found = {"byzantine": Sum(byzantine.sum().astype(jnp.float32))}
        return encoded, add_metrics(add_metrics(metrics, measured), found)


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


def _encoded(
    work: Pass, message: Message, index: Int[Array, " messages"]
) -> tuple[PyTree[Array], dict[str, AbstractMetric]]:
    """What a pass makes of stacked messages: see `Pass.one`."""

    def one(message: Message, index: Int[Array, ""]) -> Any:
        key = jr.split(jr.fold_in(work.key, index))[1]
        out = work.aggregator.encode(message, work.state, key=key)
        encoded, measured = check_encoded(work.aggregator, out)
        present = index != NO_CLIENT
        finite = tree_isfinite((message.payload, message.stats, message.weight))
        counts = {name: message.weight > 0 for name in SENT}
        measured = {
            name: only_if(present & counts.get(name, finite), x)
            for name, x in measured.items()
        }
        if work.ledger is not None:
            measured |= each_of(measured, work.ledger == index)
        return only_if(present, encoded), measured

    kept, count = jax.vmap(one)(message, index), index.size
    capacity = count if work.aggregator.gathers else None
    return in_order(kept, index, None, capacity=capacity, count=count)


def _with(message: Message, payload: PyTree[Array]) -> Message:
    # Of stacked messages, whose weights are not one number.
    return eqx.tree_at(lambda m: m.payload, message, payload)


def _row(payload: PyTree[Array]) -> Float[Array, " numbers"]:
    """A message as one row of numbers."""
    leaves = [
        x.astype(jnp.result_type(float)).reshape(-1) for x in jtu.tree_leaves(payload)
    ]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0)


def _unrowed(rows: Float[Array, "messages numbers"], like: PyTree[Array]) -> PyTree:
    """Rows as stacked messages, in the shapes and dtypes of others."""
    leaves, treedef = jtu.tree_flatten(like)
    ends = np.cumsum([x[0].size for x in leaves])[:-1].tolist()
    parts = jnp.split(rows, ends, axis=1) if leaves else []
    pairs = zip(parts, leaves, strict=True)
    return treedef.unflatten([x.reshape(y.shape).astype(y.dtype) for x, y in pairs])
