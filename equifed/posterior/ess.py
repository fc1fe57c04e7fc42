"""How many independent samples a weighted set of them is worth."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._check import checked
from ..objectives._arrays import floats


@checked()
def effective_sample_size(
    log_weights: ArrayLike | Sequence,
) -> Float[Array, ""]:
    r"""Kish's effective sample size, $\big(\sum_i w_i\big)^2 \big/ \sum_i w_i^2$.

    It is the number of samples if all weights are the same, and 1 if one of them
    outweighs all others. With the energies of the samples, $\log w_i = -f(s_i)$, it
    says over how many of them the posterior's mass is spread. Of samples that all have
    no weight ($\log w_i = -\infty$) it is 0.

    **Arguments:**

    - `log_weights`: the logarithms of the weights, up to a constant.

    ??? cite "Reference"

        L. Kish, *Survey Sampling*, Wiley, 1965.
    """
    log_weights = floats("log_weights", log_weights)
    if log_weights.ndim != 1:
        raise ValueError(
            f"`log_weights` must be one vector, got shape {log_weights.shape}."
        )
    # The scale of the weights does not matter. With 1 for the greatest, an offset of
    # their logarithms costs no digits.
    greatest = jax.lax.stop_gradient(jnp.max(log_weights, initial=-jnp.inf))
    weights = jnp.exp(log_weights - jnp.where(jnp.isfinite(greatest), greatest, 0))
    total = weights.sum()
    return total * (total / jnp.where(jnp.isneginf(greatest), 1, (weights**2).sum()))
