"""How many independent samples a weighted set of them is worth."""

import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float


def effective_sample_size(
    log_weights: Float[Array, " samples"],
) -> Float[Array, ""]:
    r"""Kish's effective sample size, $\big(\sum_i w_i\big)^2 \big/ \sum_i w_i^2$.

    It is the number of samples if all weights are the same, and 1 if one of them
    outweighs all others. With the energies of the samples, $\log w_i = -f(s_i)$, it
    says over how many of them the posterior's mass is spread.

    **Arguments:**

    - `log_weights`: the logarithms of the weights, up to a constant.

    ??? cite "Reference"

        L. Kish, *Survey Sampling*, Wiley, 1965.
    """
    return jnp.exp(2 * logsumexp(log_weights) - logsumexp(2 * log_weights))
