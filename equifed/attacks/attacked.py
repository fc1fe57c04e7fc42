"""Rounds in which some clients attack.

An attacker may know what the others send, and an aggregator's `encode` knows one
message. So a pass over the clients keeps their messages as they are; the attackers' are
replaced; and what the executor would have done as messages came, encode each and sum or
stack them, is done then.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from .._algorithm import AbstractAlgorithm
from .._algorithm.around import _AbstractAround, _AbstractWithItsState
from .._algorithm.inside import layers
from .._bits import EACH, SENT
from .._check import check_count, checked
from .._cohort import Cohort, NO_CLIENT
from .._executor.blocks import Pass
from .._metrics import add_metrics, Sum
from .._tree import rowwise, tree_isfinite
from .._wire import check_additive, Message
from .base import AbstractAttack, Seen
from .held import _Held, encoded


Knows = Literal["all", "own"]


class Attacked(_AbstractWithItsState):
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
    attackers. `nonfinite` counts an attacker whose training diverged, as anyone's, and
    one who sends what is not finite.

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

    `TypeError` for an algorithm that is attacked already, or with a
    [`equifed.Diagnose`][] in it, which goes around. `ValueError` for numbers of clients
    that are twice there or that there are not, and for the root client of
    [`equifed.FLTrust`][], who is the server; in `init`, if nobody is left who is
    honest, or, for [`equifed.attacks.ALIE`][], less than half of the clients are.

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

    def __check_init__(self):
        for layer in layers(self.algorithm):
            if isinstance(layer, Attacked):
                raise TypeError(
                    "`algorithm` has an `Attacked` in it, and the attackers of one do "
                    "not know those of the other. Name all attackers in one; who do "
                    "different things are an `AbstractAttack` of your own."
                )
            name = type(layer).__name__
            if isinstance(layer, _AbstractAround) and layer.looks_at_messages:
                raise TypeError(
                    f"`algorithm` has a `{name}` in it, which would not see what the "
                    f"attackers send. Write `{name}(Attacked(...))`."
                )
            self._check_trusted(name, layer.trusted_client)

    def _check_trusted(self, name: str, trusted: Int[Array, ""] | None) -> None:
        """Refuses that the server attacks itself."""
        traced = isinstance(trusted, jax.core.Tracer)
        if trusted is None or traced or isinstance(self.clients, jax.core.Tracer):
            return
        if int(trusted) in self.clients.tolist():
            raise ValueError(
                f"`clients` has {int(trusted)} in it, the root client of `{name}`: its "
                "examples are the server's own, which is trusted. Name others."
            )

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

    def step(self, state, clients, *, key):
        sends: list[bool] = []

        def run(work, executor, cohort, states):
            payload = work.client.payload(work.broadcast.params)
            sends.append(bool(jtu.tree_leaves(payload)))
            if not sends[-1]:
                return clients._run(work, executor, cohort, states)
            held = dataclasses.replace(work, aggregator=_Held())
            (message, metrics), states = clients._run(held, executor, cohort, states)
            message, index, byzantine, broken = self._sent(work, cohort, message)
            if clients._replaced is not None:
                counts = jax.vmap(tree_isfinite)(message.payload) & (message.weight > 0)
                clients._replaced(index, message.payload, counts)
            out, measured = encoded(work, message, index)
            # Of what is sent the aggregator has the last word.
            coded = [name for name in (*SENT, *EACH.values()) if name in measured]
            metrics = {name: x for name, x in metrics.items() if name not in coded}
            metrics["nonfinite"] = metrics["nonfinite"].merge(broken)
            found = {"byzantine": _number(byzantine)}
            metrics = add_metrics(metrics, measured)
            return (out, add_metrics(metrics, found)), states

        attacked = dataclasses.replace(clients, _run=run)
        out = self.algorithm.step(state, attacked, key=key)
        if not any(sends):
            raise ValueError(
                "`Attacked` replaces what clients send, and those of "
                f"`{type(self.algorithm).__name__}` send nothing. Leave it out."
            )
        return out

    def _sent(
        self, work: Pass, cohort: Cohort, message: Message
    ) -> tuple[Message, Int[Array, " messages"], Bool[Array, " messages"], Sum]:
        """The messages that the aggregator is sent, the clients' numbers, which are
        attackers', and how many of these are not finite but would have been."""
        check_additive(message.payload, self)
        slots = message.weight.size
        index = jnp.sort(cohort.index.reshape(-1))[:slots]
        fill = slots - index.size
        index = jnp.pad(index, (0, fill), constant_values=NO_CLIENT)
        present = message.weight > 0
        byzantine = jnp.isin(index, self.clients) & present

        def aggregate(rows: Array, key: PRNGKeyArray) -> Array:
            sent = _with(message, _unrowed(rows, message.payload))
            sum_, _ = encoded(work, sent, index)
            out, _, _ = work.aggregator.decode(sum_, work.state, key=key)
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
        sent = _with(message, payload)
        others = (message.stats, message.weight)
        counted = finite & jax.vmap(tree_isfinite)(others)
        broken = counted & ~jax.vmap(tree_isfinite)(payload)
        return sent, index, byzantine, _number(broken)


def _number(where: Bool[Array, " messages"]) -> Sum:
    return Sum(where.sum().astype(jnp.float32))


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
