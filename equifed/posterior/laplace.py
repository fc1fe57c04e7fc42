"""Laplace's approximation with a diagonal covariance."""

from typing import Literal

import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._check import as_number, check_count, checked
from .._client import LocalSGD
from .._optim import as_optim, Optim, OptimLike
from .._tree import tree_add, tree_wide
from .._types import Params
from .._wire import Broadcast
from .base import AbstractPosteriorSampler, Samples
from .objective import ClientObjective


Curvature = Literal["fisher", "hessian"]


def diagonal_curvature(
    kind: Curvature, objective: ClientObjective, params: Params, *, key: PRNGKeyArray
) -> Params:
    """The diagonal of the curvature of a client's mean loss, never negative."""
    if kind == "fisher":
        return objective.diagonal_fisher(params)
    diagonal = objective.diagonal_hessian(params, key=key)
    return jtu.tree_map(lambda x: jnp.maximum(x, jnp.zeros_like(x)), diagonal)


class Laplace(AbstractPosteriorSampler):
    r"""Independent samples of a diagonal Gaussian around the end of local SGD.

    The client runs its optimiser over all its planned steps to $\hat\theta$, and then
    takes one more pass over its examples for the diagonal $a$ of the curvature of its
    mean loss there. The samples are of $N(\hat\theta, T / (a + \delta))$, element by
    element.

    **Arguments:**

    - `optim`: the client's Optax optimiser.
    - `num_samples`: how many to draw.
    - `damping`: $\delta > 0$, the precision where the loss is flat.
    - `curvature`: `"fisher"`, the mean squared gradient of single examples (the
        diagonal of the empirical Fisher information); or `"hessian"`, one Hutchinson
        estimate $v \odot H v$ with random signs $v$, exact where the Hessian is
        diagonal, and cut off at 0.
    - `temperature`: $T$; see [`equifed.posterior.SGLD`][].
    """

    optim: Optim
    num_samples: int
    damping: Float[Array, ""]
    curvature: Curvature
    temperature: Float[Array, ""]

    @checked()
    def __init__(
        self,
        optim: OptimLike,
        num_samples: int,
        *,
        damping: ArrayLike = 1.0,
        curvature: Curvature = "fisher",
        temperature: ArrayLike = 1.0,
    ):
        self.optim = as_optim(optim)
        self.num_samples = check_count("num_samples", num_samples)
        self.damping = as_number("damping", damping, least=0, strict=True)
        self.curvature = curvature
        self.temperature = as_number("temperature", temperature, least=0)

    def count(self, batching):
        return self.num_samples

    def sample(self, loss, broadcast, data, batching, *, key):
        params, rest = broadcast.params, broadcast.rest
        step_key, pass_key, probe_key, draw_key = jr.split(key, 4)
        client = LocalSGD(loss, self.optim, batching)
        message, _, metrics = client.round(
            Broadcast(params, rest), data, None, key=step_key
        )
        mode = tree_add(params, message.payload)
        objective = ClientObjective(loss, rest, data, batching.batch_size, pass_key)
        curvature = diagonal_curvature(self.curvature, objective, mode, key=probe_key)
        centre, treedef = jtu.tree_flatten(tree_wide(message.payload))
        values = []
        for i, (x, a) in enumerate(
            zip(centre, jtu.tree_leaves(curvature), strict=True)
        ):
            variance = self.temperature.astype(x.dtype) / (
                a + self.damping.astype(x.dtype)
            )
            shape = (self.num_samples, *x.shape)
            noise = jr.normal(jr.fold_in(draw_key, i), shape, x.dtype)
            values.append(x[None] + jnp.sqrt(variance)[None] * noise)
        samples = jtu.tree_unflatten(treedef, values)
        return Samples(samples, message.payload), metrics
