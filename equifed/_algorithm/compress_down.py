"""What the server sends is compressed: the change of the model, not the model."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Int, PyTree

from .._bits import add_bits, bits_of, DOWN, EACH, lesser, payload_bits
from .._check import check_kind, checked
from .._cohort import NO_CLIENT
from .._executor import Participants
from .._metrics import AbstractMetric, Sum
from .._tree import tree_add, tree_sub
from .._types import Params
from ..compress import AbstractCompressor, EF21, ErrorFeedback, Sent
from .around import _AbstractAround
from .one_pass import AbstractOnePass


class DownState(eqx.Module):
    """The inner server's state, the model that the server alone has, the compressor's
    memory, and how many bits each client would have to be sent to have $w$."""

    server: PyTree
    exact: Params
    memory: PyTree
    owed: Sent


class CompressDown(_AbstractAround):
    r"""Wraps an algorithm: clients are sent compressed changes of the model.

    Beside its own model $x$ the server knows the one that clients have, $w$, which is
    $x$ at first. A round of the algorithm moves $w$ by $\Delta$. Then

    $$x \leftarrow x + \Delta, \qquad w \leftarrow w + C(x - w),$$

    so that what one message loses is in the next. It is $w$ that clients train from,
    and that is evaluated.

    A client that takes part is sent the messages of all rounds since it was there last,
    or, where that is shorter or it never was, $w$ itself: this is what `bits_down`
    counts. (One that took no step, or was there in a round that was rejected, is taken
    not to have been.) The metrics gain `bits_down_entropy` and `bits_down_arithmetic`:
    the same with the symbols coded, where $w$ is sent if it is shorter than coded
    messages. What an algorithm broadcasts beside the model is sent as it is.

    **Arguments:**

    - `algorithm`: any that binds a client, an aggregator and a server. What its clients
        send is compressed by [`equifed.compress.Compress`][].
    - `compressor`: $C$, biased or not, but without feedback of its own.

    ??? cite "Reference"

        As EF21-BC does: [EF21 with Bells & Whistles: Practical Algorithmic Extensions
        of Modern Error Feedback](https://arxiv.org/abs/2110.03294)
    """

    algorithm: AbstractOnePass
    compressor: AbstractCompressor

    @checked()
    def __init__(self, algorithm: AbstractOnePass, compressor: AbstractCompressor):
        self.algorithm = algorithm
        self.compressor = compressor

    def __check_init__(self):
        check_kind("algorithm", self.algorithm, AbstractOnePass)
        if isinstance(self.compressor, ErrorFeedback | EF21):
            raise TypeError(
                "`compressor` must be without feedback, as what a message loses is in "
                f"the next one anyway, got `{type(self.compressor).__name__}`. Give "
                "the compressor that is inside of it."
            )

    def begin(self, params, *, num_clients, key):
        begun = self.algorithm.begin(params, num_clients=num_clients, key=key)
        whole = Sent.plain(payload_bits(begun.params))
        server = DownState(
            begun.server,
            jtu.tree_map(jnp.copy, begun.params),
            self.compressor.init(begun.params),
            # Who never was there has to be sent all of it.
            jtu.tree_map(lambda x: jnp.tile(x, (num_clients, *[1] * x.ndim)), whole),
        )
        return dataclasses.replace(begun, server=server)

    def step(self, state, clients, *, key):
        inner_key, down_key = jr.split(key)
        known, at = state.params, state.server
        before = dataclasses.replace(state, server=at.server)
        after, metrics, accept = self.algorithm.step(before, clients, key=inner_key)
        exact = tree_add(at.exact, tree_sub(after.params, known))
        change, memory, sent = self.compressor.compress(
            tree_sub(exact, known), at.memory, key=down_key, round=state.round
        )
        whole = Sent.plain(payload_bits(known))
        metrics = {**metrics, **_received(metrics, clients, at.owed, whole)}
        # One that takes no step counts as absent.
        cohort = clients.cohort
        there = jnp.where(cohort.stop > cohort.start, clients.index, NO_CLIENT)
        owed = jtu.tree_map(lambda x: x.at[there].set(0, mode="drop"), at.owed)
        after = dataclasses.replace(
            after,
            params=tree_add(known, change),
            server=DownState(after.server, exact, memory, _with(owed, sent, whole)),
        )
        return after, metrics, accept

    def model(self, state):
        return self.algorithm.model(state)

    def own_model(self, state, kept):
        inner = dataclasses.replace(state, server=state.server.server)
        return self.algorithm.own_model(inner, kept)


def _with(owed: Sent, message: Sent, whole: Sent) -> Sent:
    """What each client is owed after one more message: never more than the model."""
    more = jtu.tree_map(lambda x, y: x + y[None], owed, message)
    least = (
        lesser(more.bits, whole.bits),
        jnp.minimum(more.entropy, whole.entropy),
        jnp.minimum(more.arithmetic, whole.arithmetic),
    )
    return eqx.tree_at(lambda s: (s.bits, s.entropy, s.arithmetic), more, least)


def _received(
    metrics: dict[str, Any], clients: Participants, owed: Sent, whole: Sent
) -> dict[str, AbstractMetric]:
    """The bits down of a round, in which the algorithm has counted whole models."""
    here = clients.present
    own = jtu.tree_map(lambda x: x.at[clients.index].get(mode="clip"), owed)

    def of_slots(digits: Int[Array, "..."]) -> dict[str, AbstractMetric]:
        digits = jnp.where(here[..., None], digits, 0)
        return clients.bits(DOWN, eqx.tree_at(lambda b: b.digits, whole.bits, digits))

    model = whole.bits.digits[None, None]
    # Of all clients and, if a `Ledger` asks, of each.
    beside = add_bits(bits_of(DOWN, metrics), of_slots(-model))
    received = add_bits(beside, of_slots(own.bits.digits))
    for coded, each in ("entropy", own.entropy), ("arithmetic", own.arithmetic):
        each = jnp.where(here, each, 0)
        more = {DOWN: each.sum(), EACH[DOWN]: each}
        received |= {
            f"{n}_{coded}": Sum(x.compute() + more[n]) for n, x in beside.items()
        }
    return received
