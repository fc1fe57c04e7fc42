"""FedRoD: two heads on one body, a generic one and one that each client keeps."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import as_number, checked
from .._client import AbstractClient, batch_gradient, merge_metrics, zero_metrics
from .._client.microbatched import in_same_parts
from .._client.outputs import (
    as_column,
    class_counts,
    label_of,
    nan_where,
    num_outputs,
    Outputs,
)
from .._client.part import add_part, part_of
from .._client.reach import only, reached
from .._cohort import ClientData
from .._measures import cross_entropy
from .._noise import reseed_noise
from .._optim import as_optim, Optim, OptimLike
from .._server import OptaxServer
from .._tree import tree_add, tree_sub, tree_zeros_like
from .._types import Loss
from .._wire import Broadcast, CHANGE, Message
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class _Both(eqx.Module):
    """The model that was sent, and what a client's own head adds to that model's."""

    generic: PyTree
    own: PyTree


class _OwnLoss(eqx.Module):
    """The loss with both heads."""

    loss: Loss

    def __call__(self, model: _Both, example: PyTree, key: Array) -> Any:
        return self.loss(add_part(model.own, model.generic), example, key)


class _Prepared(eqx.Module):
    """A model, and what is added to its logits by the client's numbers of examples."""

    model: PyTree
    prior: Float[Array, " classes"] | None


class _BalancedLoss(eqx.Module):
    """The balanced softmax loss of the generic head."""

    logits: Outputs
    label: Callable

    def __call__(self, model: _Prepared, example: PyTree, key: Array) -> Array:
        logits = self.logits(model.model, example, key)
        assert model.prior is not None
        logits = logits + model.prior.astype(logits.dtype)
        label = label_of(self.label, example)
        valid = (label >= 0) & (label < logits.size)
        logits = nan_where(~valid[None], logits[None])[0]
        return cross_entropy(logits, jnp.where(valid, label, 0))


class _TwoHeads(AbstractClient):
    """Sends the change of the generic model, and keeps its own head."""

    loss: Loss
    batching: AbstractBatching
    optim: Optim
    balanced: _BalancedLoss
    head: Callable
    gamma: Float[Array, ""]
    sends = (CHANGE,)
    follows_loss = True

    def init(self, params):
        return tree_zeros_like(part_of("head", self.head, params))

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        start, rest = _Both(broadcast.params, state), broadcast.rest
        step_key, noise_key = jr.split(key)
        optim, at = reseed_noise((self.optim, self.optim.init(start)), noise_key)
        prior = self._prior(broadcast, data)
        own_loss = in_same_parts(self.loss, _OwnLoss(self.loss))
        balanced = in_same_parts(self.loss, self.balanced)
        where = reached(self.loss, broadcast, data.example)
        where = _Both(where, _part_like(state, where))
        blank = jtu.tree_map(lambda x: None, state)

        def step(carry, examples, mask, i):
            now, at, metrics = carry
            key, batch = jr.fold_in(step_key, i), (examples, mask)
            # Each is a function of its own part alone: the other lies in the rest.
            model = eqx.combine(now.generic, rest)
            own, new = batch_gradient(
                own_loss,
                _Both(jtu.tree_map(lambda x: None, model), now.own),
                _Both(model, blank),
                *batch,
                key=key,
            )
            generic, _ = batch_gradient(
                balanced,
                _Prepared(now.generic, None),
                _Prepared(rest, prior),
                *batch,
                key=jr.clone(key),
            )
            grads = _Both(generic.model, own.own)
            updates, at = optim.update(grads, at, now)
            now = only(where, tree_add(now, updates), now)
            return now, at, merge_metrics(metrics, new)

        model = _Both(broadcast.model, state)
        metrics = zero_metrics(own_loss, model, data.example)
        now, _, metrics = data.fold(step, (start, at, metrics))
        change = tree_sub(now.generic, start.generic)
        return Message(change, data.weight), now.own, metrics

    def _prior(self, broadcast: Broadcast, data: ClientData) -> Array:
        losses = self.balanced
        size = num_outputs("logits", losses.logits, broadcast.model, data)
        counts = class_counts(losses.label, data, size)
        there = counts > 0
        logs = self.gamma * jnp.log(jnp.where(there, counts, 1))
        # 0 to the power of 0 is 1.
        return jnp.where(there, logs, jnp.where(self.gamma > 0, -jnp.inf, 0))


def _part_like(part: PyTree, whole: PyTree) -> PyTree:
    """Of the whole what a part has, `None` elsewhere."""
    return jtu.tree_map(
        lambda p, x: None if p is None else x, part, whole, is_leaf=lambda x: x is None
    )


class FedRoD(AbstractOnePass):
    r"""Federated robust decoupling: a body and a generic head that are trained as if
    all clients' classes were balanced, and a head of each client's own on top of them.

    Client $i$ has $n_c$ examples of class $c$. With the generic logits $g$ of the model
    $x$ that it was sent, that model descends the balanced softmax loss, while the
    client's own head, $\phi_i$, descends the loss of both heads together:

    $$-\log \frac{n_y^\gamma \exp(g_y)}{\sum_c n_c^\gamma \exp(g_c)} \qquad \text{and}
    \qquad \ell(x + \phi_i, e),$$

    where $x + \phi_i$ is the model with $\phi_i$ added to the params of its head. For a
    linear head its logits are the sum of those of the two heads, as in the paper. The
    gradient of the second loss stops at the body and the generic head, of which the
    changes are sent; $\phi_i$ stays with the client, and is 0 at first. Both take their
    steps at once, along the same batches. The metrics are those of the second loss.

    `algorithm.own_model(state, kept)` is $x + \phi_i$; `state.model` is the generic
    model. The paper's other version, in which a hypernetwork makes $\phi_i$ of the
    client's numbers of labels, is not here.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `aggregator`: as in
        [`equifed.FedAvg`][].
    - `logits`: `logits(model, example, key)`, a vector with one number for each class.
    - `head`: the last layer, as a function of the model, `lambda m: m.layers[-1]`; it
        is linear in its params.
    - `label`: the name of the column of labels, or a function of one example. Examples
        whose label has no logit make the client's change NaN, which is found out.
    - `gamma`: $\gamma \ge 0$. At 0 the generic model is that of FedAvg with the
        cross-entropy.

    ??? cite "Reference"

        [On Bridging Generic and Personalized Federated Learning for Image
        Classification](https://arxiv.org/abs/2107.00778)

        ```bibtex
        @inproceedings{chen2022bridging,
            title={{O}n {B}ridging {G}eneric and {P}ersonalized {F}ederated {L}earning
                   for {I}mage {C}lassification},
            author={Chen, Hong-You and Chao, Wei-Lun},
            booktitle={ICLR},
            year={2022},
        }
        ```
    """

    client: _TwoHeads
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        logits: Callable,
        head: Callable,
        label: str | Callable = "label",
        gamma: ArrayLike = 1.0,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = _TwoHeads(
            loss,
            batching,
            as_optim(client_optim),
            _BalancedLoss(logits, as_column("label", label)),
            head,
            as_number("gamma", gamma, least=0),
        )
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)

    def own_model(self, state, kept):
        return eqx.combine(add_part(kept, state.params), state.rest)
