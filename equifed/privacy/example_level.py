"""Clients whose steps clip each example's gradient and add noise: DP-SGD within the
client (Abadi et al., 2016, arXiv 1607.00133)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

from .._check import as_number, checked
from .._client import AbstractClient, merge_metrics, zero_metrics
from .._client.loss import example_metrics, Metrics
from .._client.microbatched import check_whole
from .._client.reach import only, reached
from .._client.stateful import Stateful
from .._metrics import masked_sum
from .._noise import reseed_noise
from .._optim import as_optim, Optim, OptimLike
from .._tree import (
    tree_add,
    tree_cast_like,
    tree_divide,
    tree_norm,
    tree_sub,
    tree_wide,
)
from .._types import Example, Loss, Model, Params
from .._wire import CHANGE, Message
from ..data import AbstractBatching
from .clipping import FlatClip
from .noise import normal_like, scaled_noise


class PrivateSGD(AbstractClient):
    r"""Local steps along noised sums of clipped gradients, each of one example.

    A step on the batch $B$ hands the optimiser

    $$\frac1b \Bigl( \sum_{e \in B} \nabla \ell(\theta, e) \min\bigl(1, C / \lVert
    \nabla \ell(\theta, e) \rVert\bigr) + z C \xi \Bigr), \quad \xi \sim N(0, I),$$

    where $b$ is the batch size, of a short batch too. A gradient that is not finite
    counts as 0. With $C = \infty$, $z = 0$ and full batches this is
    [`equifed.LocalSGD`][] to single precision. What its metrics say of the examples is
    not protected.

    !!! example

        ```python
        client = eqf.privacy.PrivateSGD(
            loss, optax.sgd(0.1), batching, max_norm=1.0, noise_multiplier=1.0
        )
        algorithm = eqf.FedAvg(loss, optax.sgd(0.1), batching)
        algorithm = eqx.tree_at(lambda a: a.client, algorithm, client)
        ```
    """

    loss: Loss
    optim: Optim
    batching: AbstractBatching
    max_norm: Float[Array, ""]
    noise_multiplier: Float[Array, ""]
    sends = (CHANGE,)
    follows_loss = True

    @checked()
    def __init__(
        self,
        loss: Loss,
        optim: OptimLike,
        batching: AbstractBatching,
        *,
        max_norm: ArrayLike,
        noise_multiplier: ArrayLike,
    ):
        """**Arguments:**

        - `loss`: of one example, `loss(model, example, key)`.
        - `optim`: an Optax optimiser.
        - `batching`: how the client's examples are visited.
        - `max_norm`: the $C$; `math.inf` clips nothing.
        - `noise_multiplier`: the $z$.
        """
        if isinstance(loss, Stateful):
            raise ValueError(
                "Of a `Stateful` loss, whose layers normalise over a batch, no example "
                "has a gradient of its own. Use a model with `GroupNorm` or "
                "`LayerNorm`, and a plain loss."
            )
        check_whole(loss, "PrivateSGD")
        self.loss, self.optim, self.batching = loss, as_optim(optim), batching
        self.max_norm = FlatClip(max_norm).max_norm
        self.noise_multiplier = as_number("noise_multiplier", noise_multiplier, least=0)

    def init(self, params):
        return None

    def payload(self, params):
        return params

    def gradient(
        self,
        params: Params,
        rest: Model,
        examples: Example,
        mask: Bool[Array, " batch"],
        *,
        key: PRNGKeyArray,
        noise_key: PRNGKeyArray,
    ) -> tuple[Params, Metrics]:
        """The noised mean of a batch's clipped gradients, and the metrics of its
        examples, summed."""

        def one(example: Example, key: PRNGKeyArray) -> tuple:
            def value(params: Params) -> tuple[Array, Metrics]:
                model = eqx.combine(params, rest)
                return example_metrics(self.loss, model, example, key)

            grads, metrics = jax.grad(value, has_aux=True)(params)
            grads = tree_wide(grads)
            return grads, tree_norm(grads), metrics

        keys = jr.split(key, mask.shape[0])
        grads, norms, metrics = jax.vmap(one)(examples, keys)
        # A norm is finite if all numbers are; one that overflowed would count 0 anyway.
        there = mask & jnp.isfinite(norms)
        long = there & (norms > self.max_norm)
        shrink = jnp.where(long, self.max_norm / jnp.where(long, norms, 1), 1)
        total = jtu.tree_map(lambda x: _weighed(there, shrink, x), grads)
        # Without noise the bound may be infinite, and their product is 0.
        none = self.noise_multiplier == 0
        scale = self.noise_multiplier * jnp.where(none, 0, self.max_norm)
        total = tree_add(total, scaled_noise(normal_like(total, noise_key), scale))
        size = jnp.asarray(mask.shape[0], jnp.result_type(float))
        mean = tree_cast_like(tree_divide(total, size), params)
        return mean, masked_sum(metrics, mask)

    def round(self, broadcast, data, state, *, key):
        start, rest = broadcast.params, broadcast.rest
        where = reached(self.loss, broadcast, data.example)
        step_key, own_key, noise_key = jr.split(key, 3)
        optim = reseed_noise(self.optim, noise_key)

        def step(carry, examples, mask, i):
            params, optim_state, metrics = carry
            keys = {"key": jr.fold_in(step_key, i), "noise_key": jr.fold_in(own_key, i)}
            grads, new = self.gradient(params, rest, examples, mask, **keys)
            updates, optim_state = optim.update(grads, optim_state, params)
            params = only(where, tree_add(params, updates), params)
            return params, optim_state, merge_metrics(metrics, new)

        metrics = zero_metrics(self.loss, broadcast.model, data.example)
        carry = (start, reseed_noise(optim.init(start), noise_key), metrics)
        params, _, metrics = data.fold(step, carry)
        return Message(tree_sub(params, start), data.weight), state, metrics


def _weighed(
    there: Bool[Array, " batch"], scale: Float[Array, " batch"], x: Array
) -> Array:
    """The scaled sum of those that are there: a product, which is faster than a sum of
    products that were computed before."""
    rows = jnp.where(there[:, None], x.reshape(x.shape[0], -1), 0)
    total = jnp.matmul(scale.astype(x.dtype), rows, precision="highest")
    return total.reshape(x.shape[1:])
