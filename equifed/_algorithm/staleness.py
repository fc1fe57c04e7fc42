r"""How much a message counts by its staleness $\tau$: the number of the server's
versions between the model that the client began from and the one that its message
meets, 0 if nothing came between.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._check import number
from .._overrides import inherit_types


class AbstractStaleness(eqx.Module):
    r"""A function $s(\tau)$ of the staleness."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def __call__(self, staleness: Int[Array, ""]) -> Float[Array, ""]:
        """What a message of this staleness is multiplied with."""


class ConstantStaleness(AbstractStaleness):
    r"""$s(\tau) = 1$: a message counts the same however old it is."""

    def __call__(self, staleness):
        return jnp.ones((), jnp.result_type(float))


class PolynomialStaleness(AbstractStaleness):
    r"""$s(\tau) = (1 + \tau)^{-a}$ ([Xie et al.,
    2019](https://arxiv.org/abs/1903.03934), section 5.2).

    With $a = \frac12$ it is the $1 / \sqrt{1 + \tau}$ of FedBuff's experiments.

    **Arguments:**

    - `a`: $a \ge 0$.
    """

    a: Float[Array, ""] = eqx.field(converter=number("a", least=0))

    def __call__(self, staleness):
        return (1 + staleness.astype(self.a.dtype)) ** -self.a


class HingeStaleness(AbstractStaleness):
    r"""$s(\tau) = 1$ up to $\tau = b$, then $\frac{1}{a (\tau - b) + 1}$ ([Xie et al.,
    2019](https://arxiv.org/abs/1903.03934), section 5.2).

    **Arguments:**

    - `a`: $a > 0$, how fast it falls.
    - `b`: $b \ge 0$, up to where nothing is taken off.
    """

    a: Float[Array, ""] = eqx.field(converter=number("a", least=0, strict=True))
    b: Float[Array, ""] = eqx.field(converter=number("b", least=0))

    def __call__(self, staleness):
        over = staleness.astype(self.a.dtype) - self.b.astype(self.a.dtype)
        return 1 / (self.a * jnp.maximum(over, 0) + 1)
