"""A regression of one number, for tests and for papers' arithmetic."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import number


class ToyRegression(eqx.Module):
    """The mean of a number of inputs, times one weight.

    FedJAX's toy regression compares the means of a whole batch, and so has one loss for
    all of its examples. Here the loss is of one example, as everywhere:

    !!! example

        ```python
        def loss(model, example, key):
            return (model(example["x"]) - example["y"]) ** 2
        ```
    """

    weight: Float[Array, ""] = eqx.field(converter=number("weight"), default=0.0)

    def __call__(
        self, x: Float[Array, "..."], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, ""]:
        """What is foretold of one example.

        **Arguments:**

        - `x`: a number, or several, whose mean is taken.
        - `key`: ignored; there as in models that need one.
        """
        del key
        return (jnp.asarray(x).astype(self.weight.dtype) * self.weight).mean()
