"""A little is enough: a shift that hides in the spread of honest messages."""

import jax.numpy as jnp
from jax.scipy.special import ndtri

from .base import AbstractAttack


class ALIE(AbstractAttack):
    r"""All attackers send $\mu - z\,\sigma$, with mean and standard deviation of each
    number over the messages that they know (Baruch et al., 2019, arXiv 1902.06156).

    Of $n$ messages of a round, $f$ of attackers, they need $s = \lfloor n / 2 + 1
    \rfloor - f$ honest ones that lie further out than theirs to have the median, so

    $$z = \Phi^{-1}\Bigl(\frac{n - f - s}{n - f}\Bigr).$$

    It is small, and negative where they are few: of 25 messages, 5 of attackers, 0.25.
    Where they need nobody, $s \le 0$, it is not defined: in such a round they send
    their own messages, as honest clients, and a population like that is refused.
    $\sigma$ divides by the number of messages: the paper leaves open whether by one
    less. The paper's attackers know each other's messages
    alone: `Attacked(..., knows="own")`.
    """

    needs_minority = True

    def attack(self, seen, *, key):
        x, n, f = seen.messages, seen.num_messages, seen.num_byzantine
        supporters = n // 2 + 1 - f
        share = (n - f - supporters) / jnp.maximum(n - f, 1)
        z = ndtri(share.astype(x.dtype))
        shared = seen.mean() - z * seen.std()
        return jnp.where(jnp.isfinite(z), shared[None], x)
