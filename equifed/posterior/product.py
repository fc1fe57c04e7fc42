"""The product of the clients' Gaussian posteriors."""

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._aggregator.base import AbstractAggregator, Gathered
from .._linalg import as_rows
from .._tree import safe_divide
from .._types import Params
from .._wire import Aggregate
from .moments import Gaussian


class PosteriorProduct(AbstractAggregator):
    r"""The mean of $\prod_i N(\mu_i, \Sigma_i)^{w_i}$, the multiplicative average of
    Gaussians:

    $$\mu = \Big( \sum_i w_i \Sigma_i^{-1} \Big)^{-1} \sum_i w_i \Sigma_i^{-1} \mu_i.$$

    The messages must come from a [`equifed.posterior.PosteriorClient`][] with
    [`equifed.posterior.GaussianMoments`][]; $w_i$ is the client's number of examples,
    as its posterior is that of its mean loss. Where all posteriors are Gaussian, one
    round from any start ends at the minimum of the clients' weighted mean loss.

    A client whose covariance is not positive definite counts as absent.

    !!! example

        ```python
        from equifed import posterior

        moments = posterior.GaussianMoments(1.0)
        client = posterior.PosteriorClient(loss, sampler, batching, moments)
        server = eqf.OptaxServer(optax.sgd(1.0))
        algorithm = eqf.Algorithm(client, posterior.PosteriorProduct(), server)
        ```
    """

    @property
    def gathers(self):
        return True

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        if not isinstance(message.payload, Gaussian):
            raise TypeError(
                "`PosteriorProduct` multiplies Gaussians, got a change of the params. "
                "Use it with `PosteriorClient(..., GaussianMoments(rho))`."
            )
        return Gathered(message), {}

    def decode(self, encoded, state, *, key):
        message = encoded.message
        gaussian, weight = message.payload, message.weight
        if _is_diagonal(gaussian):
            usable = jnp.ones(weight.shape, bool)
            for variance in jtu.tree_leaves(gaussian.covariance):
                usable &= (variance > 0).reshape(weight.size, -1).all(1)
        else:
            # A Cholesky factor is NaN where there is none.
            roots = jnp.linalg.cholesky(gaussian.covariance)
            usable = jnp.isfinite(roots).all((1, 2))
        weight = jnp.where(usable, weight, jnp.zeros_like(weight))
        present = weight > 0
        solve = _diagonal if _is_diagonal(gaussian) else _dense
        payload = solve(gaussian, weight, present)
        stats = _average(message.stats, weight, present)
        count = present.sum().astype(weight.dtype)
        aggregate = Aggregate(payload, stats, weight.sum(), count, count > 0)
        return aggregate, state, {}


def _is_diagonal(gaussian: Gaussian) -> bool:
    mean, covariance = gaussian.mean, gaussian.covariance
    if jtu.tree_structure(mean) != jtu.tree_structure(covariance):
        return False
    shapes = jtu.tree_map(lambda m, c: m.shape == c.shape, mean, covariance)
    return all(jtu.tree_leaves(shapes))


def _diagonal(gaussian: Gaussian, weight: Array, present: Array) -> Params:
    def one(mean, variance):
        keep, w = _along(mean, present), _along(mean, weight)
        precision = jnp.where(keep, w / variance, jnp.zeros_like(mean))
        mean = jnp.where(keep, mean, jnp.zeros_like(mean))
        return safe_divide((precision * mean).sum(0), precision.sum(0))

    return jtu.tree_map(one, gaussian.mean, gaussian.covariance)


def _dense(gaussian: Gaussian, weight: Array, present: Array) -> Params:
    means, unravel = as_rows(gaussian.mean)
    eye = jnp.eye(means.shape[1], dtype=means.dtype)
    # Those that are absent may hold anything: they are given harmless numbers.
    matrices = jnp.where(present[:, None, None], gaussian.covariance, eye[None])
    means = jnp.where(present[:, None], means, jnp.zeros_like(means))
    roots = jax.vmap(lambda c: jax.scipy.linalg.cho_factor(c)[0])(matrices)
    solve = jax.vmap(lambda c, b: jax.scipy.linalg.cho_solve((c, False), b))
    inverses = solve(roots, jnp.broadcast_to(eye, matrices.shape))
    weight = weight.astype(means.dtype)
    precision = (weight[:, None, None] * inverses).sum(0)
    linear = (weight[:, None] * solve(roots, means)).sum(0)
    # Without any message the precision is 0, and so is the mean.
    precision = jnp.where(present.any(), precision, eye)
    factor = jax.scipy.linalg.cho_factor(precision)
    return unravel(jax.scipy.linalg.cho_solve(factor, linear))


def _average(stats: PyTree, weight: Array, present: Array) -> PyTree:
    def one(x):
        kept = jnp.where(_along(x, present), x, jnp.zeros_like(x))
        return safe_divide((_along(x, weight) * kept).sum(0), weight.sum())

    return jtu.tree_map(one, stats)


def _along(x: Array, messages: Array) -> Array:
    """One number a message, to go with arrays of one row a message."""
    messages = messages.reshape(messages.shape + (1,) * (x.ndim - 1))
    return messages if messages.dtype == bool else messages.astype(x.dtype)
