"""Inner product manipulation: an aggregate that points away from the honest mean."""

import equinox as eqx
from jaxtyping import Array, Float

from .._check import number
from .base import AbstractAttack


class IPM(AbstractAttack):
    r"""All attackers send $-\epsilon\,\mu$, the opposite of the mean of the messages
    that they know (Xie et al., 2019, arXiv 1903.03936).

    A mean of $n$ messages, $f$ of them of attackers, is turned around where $\epsilon f
    > n - f$. With a small $\epsilon$ the attackers lie close to the honest messages,
    which then are what a rule such as Krum leaves out.

    **Arguments:**

    - `epsilon`: positive; the paper's are 0.1 to 10.
    """

    epsilon: Float[Array, ""] = eqx.field(
        converter=number("epsilon", least=0, strict=True)
    )

    def attack(self, seen, *, key):
        return -self.epsilon.astype(seen.messages.dtype) * seen.mean()
