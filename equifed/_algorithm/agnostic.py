"""Agnostic FedAvg: no domain of the data is left behind."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, ArrayLike, Float, Int

from .._aggregator import AbstractAggregator, UniformMean, WeightedMean
from .._bits import add_bits
from .._check import as_number, check_count, checked
from .._client import AbstractClient, batch_gradient, merge_metrics, zero_metrics
from .._client.loss import example_metrics
from .._client.microbatched import in_same_parts
from .._client.outputs import as_column, label_of, labels_of
from .._client.reach import only, reached
from .._lookups import Numbered
from .._noise import reseed_noise
from .._optim import as_optim, Optim, OptimLike
from .._round import Beginning
from .._server import OptaxServer
from .._tree import safe_divide, tree_add, tree_scale, tree_sub
from .._types import Example, Loss
from .._wire import Broadcast, Message
from .._words import message, shown
from ..data import AbstractBatching
from .base import AbstractAlgorithm


Domain = Callable[[Example], Int[Array, ""]]


class _Measures(AbstractClient):
    """Sends the sum of its losses and its number of examples, by domain."""

    loss: Loss
    batching: AbstractBatching
    domain: Domain
    num_domains: int

    def init(self, params):
        return None

    def payload(self, params):
        zeros = jnp.zeros(self.num_domains, jnp.result_type(float))
        return zeros, zeros

    def round(self, broadcast, data, state, *, key):
        def step(carry, examples, mask, i):
            losses, counts = carry
            keys = jr.split(jr.fold_in(key, i), mask.size)
            values, _ = jax.vmap(
                lambda e, k: example_metrics(self.loss, broadcast.model, e, k)
            )(examples, keys)
            values = jnp.where(mask, values, jnp.zeros_like(values))
            domains, _ = labels_of("domain", self.domain, examples, counts.size)
            hot = jax.nn.one_hot(domains, counts.size, dtype=counts.dtype)
            hot = jnp.where(mask[:, None], hot, jnp.zeros_like(hot))
            return losses + values.astype(hot.dtype) @ hot, counts + hot.sum(0)

        carry = self.payload(broadcast.params)
        sums = data.fold_examples(step, carry, batch_size=self.batching.batch_size)
        return Message(sums, (data.weight > 0).astype(data.weight.dtype)), state, {}


class _Trains(AbstractClient):
    """Local steps on losses weighted by domain, whose mean weight is 1."""

    loss: Loss
    batching: AbstractBatching
    optim: Optim
    domain: Domain

    def init(self, params):
        return None

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        start, rest, alpha = broadcast.params, broadcast.rest, broadcast.shared
        where = reached(self.loss, broadcast, data.example)
        step_key, noise_key = jr.split(key)
        optim = reseed_noise(self.optim, noise_key)

        def share(example):
            # A domain that there is not has no weight: NaN, which is found out.
            place = label_of(self.domain, example)
            there = (place >= 0) & (place < alpha.size)
            return jnp.where(there, alpha.at[place].get(mode="clip"), jnp.nan)

        def count(total, examples, mask, i):
            shares = jax.vmap(share)(examples)
            return total + jnp.where(mask, shares, jnp.zeros_like(shares)).sum()

        zero, size = jnp.zeros((), alpha.dtype), self.batching.batch_size
        weight = data.fold_examples(count, zero, batch_size=size)
        # A client that takes no step is absent, whatever it has.
        weight = jnp.where(data.weight > 0, weight, jnp.zeros_like(weight))
        scale = safe_divide(data.weight.astype(alpha.dtype), weight)

        def weighted(model, example, key):
            out = self.loss(model, example, key)
            value, values = out if isinstance(out, tuple) else (out, {})
            by = (share(example) * scale).astype(value.dtype)
            return value * by, {**values, "of the example": value}

        in_parts = in_same_parts(self.loss, weighted)

        def step(carry, examples, mask, i):
            params, optim_state, metrics = carry
            batch, key = (rest, examples, mask), jr.fold_in(step_key, i)
            grads, new = batch_gradient(in_parts, params, *batch, key=key)
            new = {**new, "loss": new.pop("of the example")}
            updates, optim_state = optim.update(grads, optim_state, params)
            params = only(where, tree_add(params, updates), params)
            return params, optim_state, merge_metrics(metrics, new)

        metrics = zero_metrics(self.loss, broadcast.model, data.example)
        carry = (start, reseed_noise(optim.init(start), noise_key), metrics)
        params, _, metrics = data.fold(step, carry)
        return Message(tree_sub(params, start), weight), state, metrics


class DomainState(eqx.Module):
    """The server optimiser's state, the domains' weights, and what was seen of them."""

    server: Any
    weights: Float[Array, " domains"]
    r"""$\lambda$, which sums to 1."""
    window: Float[Array, "rounds domains"]
    """The numbers of the participants' examples in the last rounds."""


class AgnosticFedAvg(AbstractAlgorithm):
    r"""FedAvg for whatever mixture of the domains the model will meet: the domains with
    the higher loss count more from round to round.

    Each example is of one of $J$ domains (a kind of device, a language). With the
    domains' weights $\lambda$ and their mean numbers of examples among the participants
    of the last rounds, $\overline N_j$, an example of domain $j$ counts $\alpha_j =
    \lambda_j / \overline N_j$. Client $i$ with $N_{ij}$ examples of it minimises

    $$\frac{1}{\beta_i} \sum_j \alpha_j \sum_{e \in D_{ij}} \ell(\theta, e), \qquad
    \beta_i = \sum_j \alpha_j N_{ij},$$

    from the server's $x$, and its change counts $\beta_i$. Then, by the participants'
    mean losses $L_j$ at $x$, $\lambda_j \propto \lambda_j \exp(\eta_\lambda L_j)$
    (exponentiated gradient).

    A round makes two passes: one measures losses and numbers by domain, one trains. A
    domain without an example in the window counts by this round's number, and one
    without an example in this round keeps its weight, as nothing is known of its loss.
    A domain that there is not is refused by name where `domain` hands on a column; one
    that it computes makes its client's change NaN, which is found out. The metrics are
    not weighted.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`: as in [`equifed.FedAvg`][].
    - `num_domains`: $J$, the number of domains.
    - `domain`: the name of the column, or a function of one example, that gives its
        domain, from 0 to $J - 1$.
    - `domain_learning_rate`: $\eta_\lambda \ge 0$, how fast the weights follow losses.
    - `domain_weights`: the weights $\lambda$ at first; all equal if not given.
    - `window`: over so many rounds numbers of examples are averaged.
    - `aggregator`: of the changes; [`equifed.WeightedMean`][] if not given, as in the
        paper.

    ??? cite "Reference"

        [Communication-Efficient Agnostic Federated
        Averaging](https://arxiv.org/abs/2104.02748)

        ```bibtex
        @inproceedings{ro2021communication,
            title={{C}ommunication-{E}fficient {A}gnostic {F}ederated {A}veraging},
            author={Ro, Jae and Chen, Mingqing and Mathews, Rajiv and Mohri, Mehryar and
                    Suresh, Ananda Theertha},
            booktitle={Interspeech},
            year={2021},
        }
        ```
    """

    loss: Loss
    batching: AbstractBatching
    optim: Optim
    server: OptaxServer
    aggregator: AbstractAggregator
    domain: Domain
    num_domains: int
    window: int
    domain_weights: Float[Array, " domains"]
    domain_learning_rate: Float[Array, ""]

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        num_domains: int,
        domain: str | Callable = "domain",
        domain_learning_rate: ArrayLike,
        domain_weights: ArrayLike | Sequence | None = None,
        window: int = 1,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.loss, self.batching = loss, batching
        self.optim = as_optim(client_optim)
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        self.domain = as_column("domain", domain)
        self.num_domains = check_count("num_domains", num_domains)
        self.window = check_count("window", window)
        self.domain_weights = _weights(domain_weights, self.num_domains)
        rate = as_number("domain_learning_rate", domain_learning_rate, least=0)
        self.domain_learning_rate = rate

    @property
    def _numbered(self) -> tuple[Numbered, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (Numbered("domain", self.domain, self.num_domains, "num_domains"),)

    def begin(self, params, *, num_clients, key):
        weights = self.domain_weights
        server = DomainState(
            self.server.init(params, num_clients=num_clients),
            weights,
            jnp.zeros((self.window, self.num_domains), weights.dtype),
        )
        return Beginning(params, server, self.aggregator.init(params))

    def step(self, state, clients, *, key):
        measure_key, train_key, server_key = jr.split(key, 3)
        at = state.server
        parts, sent = (self.loss, self.batching), Broadcast(state.params, state.rest)
        measures = _Measures(*parts, self.domain, self.num_domains)
        first = clients(measures, UniformMean(), sent, key=measure_key)
        measured = first.aggregate
        losses, counts = tree_scale(measured.count, measured.payload)

        seen = at.window.mean(0)
        alpha = safe_divide(at.weights, jnp.where(seen > 0, seen, counts))
        out = clients(
            _Trains(*parts, self.optim, self.domain),
            self.aggregator,
            Broadcast(state.params, state.rest, alpha),
            aggregator_state=state.aggregator,
            key=train_key,
        )
        server, inner = reseed_noise((self.server, at.server), server_key)
        x, inner = server.round(state.params, out.aggregate, inner, key=server_key)
        # The server does not move what the clients do not train either.
        x = only(reached(self.loss, sent, clients.example), x, state.params)
        weights = self._reweighted(at.weights, losses, counts)
        at = DomainState(inner, weights, jnp.stack([*at.window[1:], counts]))
        state = dataclasses.replace(
            state, params=x, server=at, aggregator=out.aggregator
        )
        return state, add_bits(out.metrics, first.metrics), out.aggregate.accept

    def model(self, state):
        return state.model

    def _reweighted(self, weights: Array, losses: Array, counts: Array) -> Array:
        """A step of exponentiated gradient among the domains that are there."""
        there = counts > 0
        slope = self.domain_learning_rate * safe_divide(losses, counts)
        top = jnp.max(jnp.where(there, slope, -jnp.inf))
        new = jnp.where(there, weights * jnp.exp(slope - top), 0)
        share = jnp.sum(jnp.where(there, weights, 0))
        return jnp.where(there, safe_divide(new * share, new.sum()), weights)


def _weights(given: Any, num_domains: int) -> Float[Array, " domains"]:
    if given is None:
        return jnp.full(num_domains, 1 / num_domains, jnp.result_type(float))
    try:
        weights = jnp.asarray(given, jnp.result_type(float))
    except (TypeError, ValueError):
        text = message("domain_weights", "an array of numbers", given)
        raise TypeError(text) from None
    if weights.shape != (num_domains,):
        number = f"a number for each of {num_domains} domains"
        raise ValueError(f"`domain_weights` must be {number}, got {shown(given)}.")
    known = not isinstance(weights, jax.core.Tracer)
    if known and not ((weights >= 0).all() and abs(float(weights.sum()) - 1) < 1e-5):
        bound = "at least 0 and sum to 1"
        raise ValueError(f"`domain_weights` must be {bound}, got {shown(given)}.")
    return weights
