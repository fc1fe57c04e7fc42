"""Streaming DiLoCo: one fragment of the params a round, mixed in while steps go on."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from .._aggregator import UniformMean
from .._bits import Bits, payload_bits, UP
from .._check import as_number, check_count, checked
from .._client import AbstractClient, AbstractWrapper
from .._client.reach import only, reached
from .._noise import reseed_noise
from .._optim import as_optim, OptimLike
from .._round import Beginning
from .._server import OptaxServer
from .._tree import tree_cast_like, tree_sub, tree_where, tree_zeros_like
from .._types import Loss, Model, Params
from .._wire import Broadcast, CHANGE, Message
from ..compress import AbstractCompressor
from ..data import AbstractBatching
from .base import NOT_KEPT
from .diloco import _KeepsOptimizer
from .fragments import Fragments, part_of
from .of_client import _AbstractOfClient


class _Kept(eqx.Module):
    """What a replica has from one round to the next."""

    params: Params
    optim: PyTree
    seen: Int[Array, ""]
    """How many synchronisations it has heard of; -1 before its first round."""


class _Replica(AbstractWrapper):
    """A client that goes on from where it was, and mixes in what it missed."""

    client: _KeepsOptimizer
    fragments: Fragments
    delay: int
    alpha: Float[Array, ""]
    compressor: AbstractCompressor | None
    sends = (CHANGE,)

    def __init__(
        self,
        client: _KeepsOptimizer,
        fragments: Fragments,
        delay: int,
        alpha: Float[Array, ""],
        compressor: AbstractCompressor | None,
    ):
        self.client, self.fragments, self.delay = client, fragments, delay
        self.alpha, self.compressor = alpha, compressor

    def init(self, params):
        compressor = self.compressor
        if compressor is not None and jtu.tree_leaves(compressor.init(params)):
            raise TypeError(
                f"`{type(compressor).__name__}` remembers something of each client, "
                "and a client sends another fragment in each round. Take a compressor "
                "without a memory."
            )
        return _Kept(params, self.client.init(params), jnp.asarray(-1, jnp.int32))

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        outer, turn = broadcast.params, broadcast.shared
        fragments = self.fragments.of(outer)
        count, is_new = len(fragments), state.seen < 0
        compress_key, key = jr.split(key)

        def mix(params: Params) -> Params:
            for i, fragment in enumerate(fragments):
                # It has been the turn of this one since.
                moved = (i - state.seen) % count < turn - state.seen
                own = part_of(params, fragment)
                mixed = jtu.tree_map(self._mixed, own, part_of(outer, fragment))
                params = eqx.combine(tree_where(moved, mixed, own), params)
            return params

        def before(params: Params, i: Int[Array, ""]) -> Params:
            here = (i == self.delay) & ~is_new
            return jax.lax.cond(here, mix, lambda x: x, params)

        start = tree_where(is_new, outer, state.params)
        sent = Broadcast(start, broadcast.rest)
        params, optim, metrics = self.client.steps(
            sent, data, state.optim, key=key, before=before
        )
        late = (data.num_steps <= self.delay) & ~is_new
        params = jax.lax.cond(late, mix, lambda x: x, params)
        delta = tree_sub(params, outer)

        def send(fragment: PyTree[bool]) -> Callable[[], tuple[Params, Bits]]:
            def branch() -> tuple[Params, Bits]:
                part = part_of(delta, fragment)
                aside = payload_bits(data.weight)
                bits = Bits(payload_bits(part) + aside)
                if self.compressor is not None:
                    decoded, _, coded = self.compressor.compress(
                        part, None, key=compress_key, round=data.round
                    )
                    part = tree_cast_like(decoded, part)
                    bits = coded.with_more(aside).bits
                return eqx.combine(part, tree_zeros_like(delta)), bits

            return branch

        payload, bits = jax.lax.switch(turn % count, list(map(send, fragments)))
        kept = _Kept(params, optim, turn)
        return Message(payload, data.weight), kept, {**metrics, UP: bits}

    def _mixed(self, own: Array, outer: Array) -> Array:
        alpha = self.alpha.astype(own.dtype)
        return alpha * own + (1 - alpha) * outer


class _Outer(eqx.Module):
    """What the server has beside the params."""

    optims: tuple[PyTree, ...]
    """Of each fragment."""
    turn: Int[Array, ""]
    """How often a fragment has been synchronised."""


class StreamingDiLoCo(_AbstractOfClient):
    r"""DiLoCo, of which one fragment of the params is synchronised after another, while
    clients go on training.

    Each client keeps params $\theta_i$ of its own, and its optimiser's state. A round
    is the $H / P$ steps from one synchronisation to the next, of $P$ fragments in turn,
    so that each fragment has a period of $H$ and an offset of its own. At the end of
    round $t$ it is the turn of $p = t \bmod P$:

    $$\Delta_p = \frac{1}{|S|} \sum_i (x_p - \theta_{i,p}), \qquad
    x_p \leftarrow \mathrm{OuterOpt}(x_p, \Delta_p),$$

    of which clients hear $\tau$ steps later, in the next round:

    $$\theta_{i,p} \leftarrow \alpha \theta_{i,p} + (1 - \alpha) x_p.$$

    With one fragment, $\tau = 0$ and $\alpha = 0$ it is [`equifed.DiLoCo`][].

    These equations, fragments one after another at equal distances, and an outer
    gradient from the $x_p$ that was synchronised last are the paper's. Ours is what it
    has no need of, as its workers are always there: a client that was away mixes in
    each fragment that was synchronised meanwhile, once and as it is now, one that comes
    for the first time begins with $x$, and a round that is rejected is no fragment's
    turn. Ours is also that a delay of more steps than a round has is cut to those (a
    client mixes before it sends, at the latest), and what fragments are: the paper's
    are layers, in a row or strided, here they are any whole arrays, so that layers
    which are stacked in one are not taken apart.

    The model that is evaluated is $x$. `bits_up` counts the fragment, `bits_down` all
    of $x$, as clients may have been away.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.DiLoCo`][]; the batching says
        how many steps a round has.
    - `fragments`: $P$, among which the arrays are dealt in their order; or a function
        of the model that returns the fragments, each a part of it or several, as
        [`equifed.roles`][] takes them (`lambda m: [m.layers[i::3] for i in range(3)]`).
    - `delay`: $\tau$, the steps that a synchronisation takes.
    - `alpha`: $\alpha$, of what a client has learnt meanwhile and before; less than 1.
    - `compressor`: of what clients send, without a memory; nothing is compressed if it
        is not given. `equifed.compress.QSGD(7)` has at most 4 bits a number, as many
        as the paper's floating point with 3 of exponent, which is not here.
    - `server_optim`: the outer optimiser, of each fragment by itself; if not given
        `optax.sgd(0.7, momentum=0.9, nesterov=True)`, as in DiLoCo.

    ??? cite "Reference"

        [Streaming DiLoCo with overlapping communication: Towards a Distributed Free
        Lunch](https://arxiv.org/abs/2501.18512), Algorithm 2

        ```bibtex
        @article{douillard2025streaming,
            title={{S}treaming {DiLoCo} with overlapping communication: {T}owards a
                   {D}istributed {F}ree {L}unch},
            author={Douillard, Arthur and Donchev, Yanislav and Rush, Keith and Kale,
                    Satyen and Charles, Zachary and Garrett, Zachary and Teston, Gabriel
                    and Lacey, Dave and McIlroy, Ross and Shen, Jiajun and Ram{\'e},
                    Alexandre and Szlam, Arthur and Ranzato, Marc'Aurelio and Barham,
                    Paul},
            journal={arXiv:2501.18512},
            year={2025},
        }
        ```
    """

    client: AbstractClient
    server: OptaxServer
    fragments: Fragments

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        fragments: int | Callable[[Model], Sequence[PyTree]],
        delay: int,
        alpha: ArrayLike,
        compressor: AbstractCompressor | None = None,
        server_optim: OptimLike | None = None,
    ):
        if not callable(fragments):
            fragments = check_count("fragments", fragments)
        self.fragments = Fragments(fragments)
        inner = _KeepsOptimizer(loss, batching, as_optim(client_optim))
        delay = check_count("delay", delay, least=0)
        self.client = _Replica(
            *(inner, self.fragments, delay),
            as_number("alpha", alpha, least=0, below=1),
            compressor,
        )
        if server_optim is None:
            server_optim = optax.sgd(0.7, momentum=0.9, nesterov=True)
        self.server = OptaxServer(server_optim)

    def begin(self, params, *, num_clients, key):
        fragments = self.fragments.of(params)
        optims = (self.server.optim.init(part_of(params, x)) for x in fragments)
        server = _Outer(tuple(optims), jnp.zeros((), jnp.int32))
        return Beginning(params, server=server, clients=self.client.init(params))

    def keep(self, params, personal, begun):
        what = "has params of each client's own"
        raise ValueError(NOT_KEPT.format(type(self).__name__, what))

    def step(self, state, clients, *, key):
        client_key, server_key, noise_key = jr.split(key, 3)
        params, turn = state.params, state.server.turn
        server, optims = reseed_noise((self.server, state.server.optims), noise_key)
        sent = Broadcast(params, state.others, turn)
        out = clients(self.client, UniformMean(), sent, state.clients, key=client_key)
        fragments = self.fragments.of(params)

        def outer(i: int, fragment: PyTree[bool]) -> Callable[[], Any]:
            def branch() -> tuple[Params, tuple[PyTree, ...]]:
                mean = part_of(out.aggregate.payload, fragment)
                aggregate = dataclasses.replace(out.aggregate, payload=mean)
                part = part_of(params, fragment)
                part, new = server.round(part, aggregate, optims[i], key=server_key)
                return eqx.combine(part, params), (*optims[:i], new, *optims[i + 1 :])

            return branch

        branches = [outer(i, x) for i, x in enumerate(fragments)]
        moved, optims = jax.lax.switch(turn % len(fragments), branches)
        # The server does not move what the clients do not train either.
        moved = only(reached(self.loss, sent, clients.example), moved, params)
        state = dataclasses.replace(
            state, params=moved, server=_Outer(optims, turn + 1), clients=out.clients
        )
        return state, out.metrics, out.aggregate.accept

    def model(self, state):
        return state.model
