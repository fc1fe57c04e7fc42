"""Perplexity: how many tokens a guess was among."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer

from .._metrics import AbstractMetric, Average
from .tokens import averaged, losses_of


class Perplexity(AbstractMetric):
    r"""$\exp$ of the mean cross-entropy of a token.

    The mean is one over tokens, kept as its total and its weight, and the exponential
    is taken of what is summed: it is exact over examples, clients and devices, where a
    mean of perplexities is something else. NaN over no token.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]

    def __init__(
        self,
        logits: Float[Array, "length classes"],
        targets: Integer[ArrayLike, " length"],
        *,
        masked: Sequence[int] = (0,),
    ):
        """**Arguments:**

        - `logits`, `targets`: those of one sequence.
        - `masked`: targets that do not count; padding, by default.
        """
        losses, real = losses_of("Perplexity", logits, targets, masked)
        tokens = averaged(losses, real, per_position=False)
        self.total, self.weight = tokens.total, tokens.weight

    def compute(self) -> Array:
        return jnp.exp(Average(self.total, self.weight).compute())
