r"""Samples from the path of a stochastic-gradient method.

$\theta_{k+1} = \theta_k + u_k(g_k)$ takes one gradient of a planned batch at each step.
Methods differ in the update $u_k$ alone; how the path is cut into samples is the same
for all, and written once. The loop visits the client's plan exactly as local SGD does,
with the same keys.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .._client.gradient import batch_gradient, merge_metrics, Metrics, zero_metrics
from .._client.reach import only, reached
from .._cohort import ClientData
from .._noise import reseed_noise
from .._tree import (
    tree_add,
    tree_add_scaled,
    tree_cast_like,
    tree_divide,
    tree_merge_axes,
    tree_scale,
    tree_sub,
    tree_wide,
    tree_zeros_like,
)
from .._types import Loss, Params
from .._wire import Broadcast
from ..data import AbstractBatching
from .base import AbstractPosteriorSampler, Samples
from .windows import Windows


class AbstractChainSampler(AbstractPosteriorSampler):
    """A sampler that walks: each sample is the mean of some of its iterates.

    Subclass it for a method of your own: what it keeps between its steps, and what a
    step adds to the params.
    """

    windows: eqx.AbstractVar[Windows]

    @abc.abstractmethod
    def begin(self, params: Params) -> PyTree:
        """What the method keeps between its steps."""

    @abc.abstractmethod
    def update(
        self, grads: Params, params: Params, state: PyTree, *, key: PRNGKeyArray
    ) -> tuple[Params, PyTree]:
        """One step: what to add to the params, and the new state."""

    def count(self, batching):
        return self.windows.chains * self.windows.num_windows(batching)

    def sample(self, loss, broadcast, data, batching, *, key):
        step_key, noise_key = jr.split(key)
        sampler = reseed_noise(self, noise_key)
        chain = _Chain(sampler, loss, broadcast, data, batching, step_key, noise_key)
        chains = self.windows.chains
        if chains == 1:
            values, last, metrics = chain(jnp.zeros((), jnp.int32))
            return Samples(values, last), metrics
        values, last, metrics = jax.vmap(chain)(jnp.arange(chains, dtype=jnp.int32))
        values = tree_merge_axes(values)
        share = jnp.asarray(1 / chains, jnp.result_type(float))
        last = jtu.tree_map(lambda x: x.sum(0), last)
        metrics = jtu.tree_map(lambda x: x.sum(0), metrics)
        return Samples(values, tree_scale(share, last)), metrics


class _Chain(eqx.Module):
    """One chain: from its number to its samples, its last iterate, and the metrics."""

    sampler: AbstractChainSampler
    loss: Loss
    broadcast: Broadcast
    data: ClientData
    batching: AbstractBatching
    step_key: PRNGKeyArray
    noise_key: PRNGKeyArray

    def __call__(self, number: Int[Array, ""]) -> tuple[PyTree, Params, Metrics]:
        start, rest = self.broadcast.params, self.broadcast.rest
        windows, data = self.sampler.windows, self.data
        where = reached(self.loss, self.broadcast, data.example)

        def one_sample(carry, i):
            window = windows.window(number, i, data.num_steps, self.batching)
            part = data.between(window.begin, window.end)

            def step(carry, examples, mask, i):
                (params, state, metrics), total = carry
                # The number of the step in the client's whole plan.
                i = window.begin + i
                grads, new = batch_gradient(
                    self.loss,
                    params,
                    rest,
                    examples,
                    mask,
                    key=jr.fold_in(self.step_key, i),
                )
                update, state = self.sampler.update(
                    grads, params, state, key=jr.fold_in(self.noise_key, i)
                )
                params = only(where, tree_add(params, update), params)
                metrics = merge_metrics(metrics, new)
                keep = (i >= window.keep).astype(jnp.result_type(float))
                total = tree_add_scaled(total, keep, _from(start, params))
                return (params, state, metrics), total

            zeros = tree_zeros_like(tree_wide(start))
            carry, total = part.fold(step, (carry, zeros))
            length = window.end - window.keep
            mean = tree_divide(total, length.astype(jnp.result_type(float)))
            return carry, mean

        metrics = zero_metrics(self.loss, self.broadcast.model, data.example)
        chain_key = jr.fold_in(self.noise_key, number)
        carry = (start, reseed_noise(self.sampler.begin(start), chain_key), metrics)
        count = jnp.arange(windows.num_windows(self.batching), dtype=jnp.int32)
        (params, _, metrics), values = jax.lax.scan(one_sample, carry, count)
        last = tree_cast_like(_from(start, params), start)
        return values, last, metrics


def _from(start: Params, params: Params) -> Params:
    # Averages of displacements lose fewer digits than averages of params.
    return tree_sub(tree_wide(params), tree_wide(start))
