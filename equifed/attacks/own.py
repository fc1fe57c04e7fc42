"""Attacks that change what an attacker would have sent, and look at nobody else."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._check import number
from .base import AbstractAttack


class SignFlip(AbstractAttack):
    r"""An attacker sends the opposite of its own message, $-s\,m_i$.

    **Arguments:**

    - `scale`: the $s$, positive.
    """

    scale: Float[Array, ""] = eqx.field(converter=number("scale", least=0, strict=True))

    def attack(self, seen, *, key):
        return -self.scale.astype(seen.messages.dtype) * seen.messages


class Noise(AbstractAttack):
    r"""An attacker sends Gaussian noise in place of its message: each number is drawn
    from $N(0, \sigma^2)$ (Blanchard et al., 2017, arXiv 1703.02757, with $\sigma =
    200$). The draw is the attacker's own.

    **Arguments:**

    - `std`: the $\sigma$, positive.
    """

    std: Float[Array, ""] = eqx.field(converter=number("std", least=0, strict=True))

    def attack(self, seen, *, key):
        x = seen.messages
        keys = jax.vmap(lambda i: jr.fold_in(key, i))(seen.index)
        draw = jax.vmap(lambda key: jr.normal(key, x.shape[1:], x.dtype))(keys)
        return self.std.astype(x.dtype) * draw


class ModelReplacement(AbstractAttack):
    r"""An attacker sends its own message, so many times larger that a mean is carried
    all the way to the attacker's model (Bagdasaryan et al., 2020, arXiv 1807.00459).

    With the weights $w_i$ of the round's messages, and those of the set $B$ of the
    attackers', it is $m_i \sum_j w_j \big/ \sum_{j \in B} w_j$: of $n$ messages of
    equal weight, one of which is an attacker's, $n\,m_i$. That assumes, as the paper
    does, that the honest messages nearly cancel. The message itself is of poisoned
    examples: see [`equifed.attacks.backdoored`][], and [`equifed.attacks.triggered`][]
    for how well it worked.
    """

    def attack(self, seen, *, key):
        own = jnp.where(seen.byzantine, seen.weight, 0).sum()
        # Of attackers without a message nothing is taken.
        scale = seen.weight.sum() / jnp.where(own > 0, own, 1)
        return scale.astype(seen.messages.dtype) * seen.messages
