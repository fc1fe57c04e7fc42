"""What the laws have a model trained on: with noise from the key, and without."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, PRNGKeyArray


LawModel = Callable[[Float[Array, " 3"]], Float[Array, ""]]


def quiet_loss(
    model: LawModel, example: dict[str, Array], key: PRNGKeyArray
) -> tuple[Array, dict[str, Array]]:
    """A squared error, and the target as a metric whose mean is known."""
    del key
    return _loss(model, example, 0.0)


def plain_loss(
    model: LawModel, example: dict[str, Array], key: PRNGKeyArray
) -> tuple[Array, dict[str, Array]]:
    """The same with noise from the key, as much as the example says."""
    noise = jr.normal(key)
    return _loss(model, example, example["noise"].astype(noise.dtype) * noise)


def _loss(model: LawModel, example: dict[str, Array], noise: Array | float):
    dtype = jtu.tree_leaves(eqx.filter(model, eqx.is_inexact_array))[0].dtype
    x, y, noise = (jnp.asarray(z, dtype) for z in (example["x"], example["y"], noise))
    error = model(x) + noise - y
    return error**2 / 2, {"y": example["y"]}
