"""What the server sends is compressed: the change of the model, not the model."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Int, PyTree

from .._bits import add_bits, Bits, DOWN, payload_bits
from .._check import check_kind, checked
from .._cohort import NO_CLIENT
from .._executor import Participants
from .._tree import tree_add, tree_sub
from .._types import Params
from ..compress import AbstractCompressor, EF21, ErrorFeedback
from .around import _AbstractAround
from .one_pass import AbstractOnePass


class DownState(eqx.Module):
    """The inner server's state, the model that the server alone has, the compressor's
    memory, and in which round each client was sent the model last (-1: in none)."""

    server: PyTree
    exact: Params
    memory: PyTree
    last: Int[Array, " clients"]


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
    not to have been.)
    What an algorithm broadcasts beside the model is sent as it is.

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
        server = DownState(
            begun.server,
            jtu.tree_map(jnp.copy, begun.params),
            self.compressor.init(begun.params),
            jnp.full(num_clients, -1, jnp.int32),
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
        less = self._instead(clients, state, sent.bits)
        metrics = add_bits(metrics, clients.bits(DOWN, less))
        # One that takes no step counts as absent.
        cohort = clients.cohort
        there = jnp.where(cohort.stop > cohort.start, clients.index, NO_CLIENT)
        last = at.last.at[there].set(state.round, mode="drop")
        after = dataclasses.replace(
            after,
            params=tree_add(known, change),
            server=DownState(after.server, exact, memory, last),
        )
        return after, metrics, accept

    def _instead(self, clients: Participants, state: PyTree, message: Bits) -> Bits:
        """What replaces the model that the algorithm has counted, less that model."""
        model = Bits(payload_bits(state.params))
        last = state.server.last.at[clients.index].get(mode="clip")
        missed = (state.round - last)[..., None]
        float_of = jnp.result_type(float)
        longer = missed.astype(float_of) * message.compute() >= model.compute()
        whole = longer | (last < 0)[..., None]
        in_full, one = (x.digits[None, None] for x in (model, message))
        each = jnp.where(whole, in_full, missed.astype(one.dtype) * one)
        each = jnp.where(clients.present[..., None], each - in_full, 0)
        return eqx.tree_at(lambda b: b.digits, model, each)

    def model(self, state):
        return self.algorithm.model(state)

    def own_model(self, state, kept):
        inner = dataclasses.replace(state, server=state.server.server)
        return self.algorithm.own_model(inner, kept)
