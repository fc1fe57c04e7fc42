"""How the messages of a round lie to one another: do clients agree?"""

import dataclasses

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Int, PyTree

from .._aggregator.gram import along_sum, gram, Order
from .._check import checked
from .._client import AbstractClient, AbstractWrapper
from .._cohort import NO_CLIENT
from .._metrics import AbstractMetric, add_metrics
from .._tree import tree_merge_axes
from .._wire import check_additive
from .around import _AbstractWithItsState
from .base import AbstractAlgorithm
from .inside import check_once


class OfRound(AbstractMetric):
    """What is known of a round as a whole: nothing is added up."""

    value: Array

    def compute(self):
        return self.value


class _Shows(AbstractWrapper):
    """A client whose new state has, beside its own, the payload that it sent, and
    whether that counts."""

    client: AbstractClient

    def __init__(self, client: AbstractClient):
        self.client = client

    def init(self, params):
        return self.client.init(params)

    def payload(self, params):
        return self.client.payload(params)

    def round(self, broadcast, data, state, *, key):
        own, _, _ = state
        message, own, metrics = self.client.round(broadcast, data, own, key=key)
        return message, (own, message.payload, message.weight > 0), metrics


class Diagnose(_AbstractWithItsState):
    r"""Wraps an algorithm: its rounds are as they were, to the bit, and tell how the
    clients' messages $m_i$ lie to one another.

    With $\overline m = \frac1n \sum_i m_i$ over the $n$ messages, every client counting
    once, the metrics of a round have as well

    * `gradient_diversity`: $\sum_i \lVert m_i \rVert^2 \big/ \lVert \sum_i m_i
      \rVert^2$ (1706.05699), from $1 / n$, where all are the same, over 1, where they
      are orthogonal, to infinity, where they cancel;
    * `cosine_mean` and `cosine_min`: of $\cos(m_i, \overline m)$, over the messages
      that are not 0;
    * `norm_min`, `norm_median` and `norm_max`: of $\lVert m_i \rVert$.

    A message is what the client sends, before the aggregator changes it: the change of
    the model, and whatever else is sent beside it (SCAFFOLD's control variate); of
    attackers ([`equifed.attacks.Attacked`][]) it is what they send in its place. A
    message that is not finite, or of weight 0, is left out; over none of them there is
    nothing to say (NaN). Of a round of several passes it is those of the last pass,
    which must not lie inside of a loop.

    All messages of a cohort are held at once, as a median does.

    **Arguments:**

    - `algorithm`: any whose messages may be added up.
    - `gram`: whether the metrics have `gram` too, the matrix of $\langle m_i, m_j
        \rangle$, and `gram_clients`, the numbers of the clients that its rows are of,
        in ascending order. There are as many rows as the cohort has places: in what is
        left the numbers are -1, and the matrix is NaN. A logger takes numbers alone;
        [`equifed.rounds`][] and the history of [`equifed.train`][] have the matrix.

    !!! example

        ```python
        algorithm = eqf.Diagnose(eqf.FedAvg(loss, optim, batching), gram=True)
        state = algorithm.init(model, num_clients=loader.num_clients)
        for state, metrics in eqf.rounds(algorithm, state, loader, ...):
            there = metrics["gram_clients"] >= 0
            gram = metrics["gram"][there][:, there]
            norms = jnp.sqrt(jnp.diagonal(gram))
            cosines = gram / norms / norms[:, None]
        ```

    ??? cite "Reference"

        [Gradient Diversity: a Key Ingredient for Scalable Distributed
        Learning](https://arxiv.org/abs/1706.05699)

        ```bibtex
        @inproceedings{yin2018gradient,
            title={{G}radient {D}iversity: a {K}ey {I}ngredient for {S}calable
                   {D}istributed {L}earning},
            author={Yin, Dong and Pananjady, Ashwin and Lam, Max and Papailiopoulos,
                    Dimitris and Ramchandran, Kannan and Bartlett, Peter},
            booktitle={AISTATS},
            year={2018},
        }
        ```
    """

    algorithm: AbstractAlgorithm
    gram: bool
    looks_at_messages = True

    @checked()
    def __init__(self, algorithm: AbstractAlgorithm, *, gram: bool = False):
        self.algorithm = algorithm
        self.gram = gram

    def __check_init__(self):
        check_once(self)

    def begin(self, params, *, num_clients, key):
        return self.algorithm.begin(params, num_clients=num_clients, key=key)

    def step(self, state, clients, *, key):
        passes = []

        def run(work, executor, cohort, states):
            payload = work.client.payload(work.broadcast.params)
            slots = cohort.index.shape
            nothing = jtu.tree_map(
                lambda x: jnp.zeros((*slots, *x.shape), x.dtype), payload
            )
            given = (states, nothing, jnp.zeros(slots, bool))
            work = dataclasses.replace(work, client=_Shows(work.client))
            total, (states, *shown) = clients._run(work, executor, cohort, given)
            passes.append((cohort.index, *shown))
            return total, states

        def replaced(index, payloads, counts) -> None:
            parts = (index, payloads, counts)
            passes[-1] = jtu.tree_map(lambda x: x[None], parts)

        watched = dataclasses.replace(clients, _run=run, _replaced=replaced)
        state, metrics, accept = self.algorithm.step(state, watched, key=key)
        found = {name: OfRound(x) for name, x in self._found(*passes[-1]).items()}
        return state, add_metrics(metrics, found), accept

    def _found(
        self,
        index: Int[Array, "devices slots"],
        payloads: PyTree,
        counts: Bool[Array, "devices slots"],
    ) -> dict[str, Array]:
        """What the metrics have, of messages with two leading axes."""
        check_additive(payloads, self)
        if not jtu.tree_leaves(payloads):
            name = type(self.algorithm).__name__
            raise ValueError(
                f"`Diagnose` compares what clients send, and those of `{name}` send "
                "nothing. Leave it out."
            )
        index = jnp.where(counts, index, NO_CLIENT).reshape(-1)
        rows = jnp.argsort(index)
        index = index[rows]
        order = Order(rows, index != NO_CLIENT)
        messages = tree_merge_axes(payloads)
        found = _agreement(messages, order)
        if self.gram:
            pair = order.there[:, None] & order.there[None, :]
            found["gram"] = jnp.where(pair, gram(messages, order), jnp.nan)
            found["gram_clients"] = jnp.where(order.there, index, -1)
        return found


def _agreement(messages: PyTree[Array], order: Order) -> dict[str, Array]:
    there = order.there
    scale = _scale(messages, order)
    messages = jtu.tree_map(lambda x: x / scale.astype(x.dtype), messages)
    squares, dots, square = along_sum(messages, order)
    norms = jnp.where(there, jnp.sqrt(squares), jnp.nan) * scale.astype(squares.dtype)
    moved = there & (squares > 0)
    length = jnp.sqrt(jnp.where(moved, squares, 1)) * jnp.sqrt(square)
    cosines = jnp.where(moved & (square > 0), dots / length, jnp.nan)
    return {
        "gradient_diversity": squares.sum() / square,
        "cosine_mean": jnp.nanmean(cosines),
        "cosine_min": jnp.nanmin(cosines),
        "norm_min": jnp.nanmin(norms),
        "norm_median": jnp.nanmedian(norms),
        "norm_max": jnp.nanmax(norms),
    }


def _scale(messages: PyTree[Array], order: Order) -> Array:
    """A power of 2 beside which no square of a message overflows: 1, as long as none
    would anyway."""
    there = jnp.zeros_like(order.there).at[order.rows].set(order.there)
    largest = jnp.zeros(())
    for leaf in jtu.tree_leaves(messages):
        rows = jnp.abs(leaf.reshape(leaf.shape[0], -1)).max(1, initial=0)
        rows = jnp.where(there, rows.astype(largest.dtype), 0)
        largest = jnp.maximum(largest, rows.max())
    _, exponent = jnp.frexp(largest)
    return jnp.where(largest > 1e15, jnp.ldexp(jnp.ones(()), exponent), jnp.ones(()))
