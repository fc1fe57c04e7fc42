"""Exact samples, where the posterior is a Gaussian."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import jax.scipy.linalg
from jaxtyping import Array, ArrayLike, Float

from .._check import as_number, check_count, checked
from .._linalg import is_positive
from .._tree import tree_cast_like, tree_wide
from .base import AbstractPosteriorSampler, check_whole, Samples
from .objective import ClientObjective, learnable, with_the_rest


class ExactGaussian(AbstractPosteriorSampler):
    r"""Independent samples of a posterior that is a Gaussian: exact if the client's
    loss is a quadratic function of the params.

    From the gradient $g$ and the Hessian $A$ of the client's mean loss at the server's
    model $x$, the samples are of $N(x - A^{-1} g, T A^{-1})$. On any other loss this is
    the Gaussian whose quadratic touches the loss at $x$. It takes a matrix of $d \times
    d$ numbers: for small models.

    Where $A$ is not positive definite there is no such Gaussian: the samples are then
    NaN, and the client's message counts for nothing.

    **Arguments:**

    - `num_samples`: how many to draw.
    - `temperature`: $T$; see [`equifed.posterior.SGLD`][].
    """

    num_samples: int
    temperature: Float[Array, ""]

    @checked()
    def __init__(self, num_samples: int, *, temperature: ArrayLike = 1.0):
        self.num_samples = check_count("num_samples", num_samples)
        self.temperature = as_number("temperature", temperature, least=0, strict=True)

    def count(self, batching):
        check_whole(self, batching)
        return self.num_samples

    def sample(self, loss, broadcast, data, batching, *, key):
        start = learnable(loss, broadcast, data.example)
        params = start.params
        pass_key, draw_key = jr.split(key)
        objective = ClientObjective(
            loss, start.rest, data, batching.batch_size, pass_key
        )
        grads, metrics = objective.full_gradient(params)
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        flat_grads, _ = jax.flatten_util.ravel_pytree(tree_wide(grads))
        _, unravel_wide = jax.flatten_util.ravel_pytree(tree_wide(params))
        hessian = objective.hessian(flat, unravel)
        regular = is_positive(hessian)
        # A client without examples has no posterior; its message weighs nothing.
        empty = data.num_examples == 0
        # What stands in for a singular matrix has derivatives that are finite.
        eye = jnp.eye(flat.size, dtype=hessian.dtype)
        root = jnp.linalg.cholesky(jnp.where(regular, hessian, eye))
        mean = -jax.scipy.linalg.cho_solve((root, True), flat_grads)
        noise = jr.normal(draw_key, (self.num_samples, flat.size), hessian.dtype)
        spread = jax.scipy.linalg.solve_triangular(root, noise.T, lower=True, trans="T")
        scale = jnp.sqrt(self.temperature).astype(hessian.dtype)
        usable = regular | empty
        values = jnp.where(usable, mean[None] + scale * spread.T, jnp.nan)
        mean = jnp.where(usable, mean, jnp.nan)
        last = tree_cast_like(unravel_wide(mean), params)
        samples = Samples(jax.vmap(unravel_wide)(values), last)
        return with_the_rest(samples, broadcast.params), metrics
