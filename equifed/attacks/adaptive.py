"""An attack that climbs the gradient through the server's own rule."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._check import check_count, number
from .base import AbstractAttack


class Adaptive(AbstractAttack):
    r"""All attackers send one message, which is found by gradient ascent *through the
    aggregator*, within each round.

    With the mean $\mu$ of the messages that the attackers know, and the aggregate
    $A(m)$ if they all send $m$, it makes

    $$h(m) = -\Bigl\langle A(m), \frac{\mu}{\lVert \mu \rVert} \Bigr\rangle$$

    large, over the ball around $\mu$ whose radius is that of the known messages,
    $r = \rho \max_i \lVert m_i - \mu \rVert$. It begins at $\mu$ or at $\mu - r \mu /
    \lVert \mu \rVert$, whichever does more harm, and takes steps of length $r$ along
    the gradient; one that does no more harm is taken back, and the next ones are half
    as long. So what is sent is never less harmful than these two.

    The attackers know the rule, its state, and the honest messages; what a rule draws
    at random (buckets, say) they do not: they climb with a draw of their own.

    Where a rule *selects* (Krum, Bulyan, DnC), it has the derivative of what is
    selected: while $m$ is, the ascent moves it out, until a step would have it left
    out, which is taken back and halved. It finds the edge of what is selected along the
    way, not around a corner; where neither start is selected, the gradient is 0, and
    nothing is found. A median has the derivative where the attackers are its middle.

    **Arguments:**

    - `radius`: the $\rho$, positive.
    - `num_steps`: how many steps, each of which is one aggregation and its derivative.
    """

    radius: Float[Array, ""] = eqx.field(
        default=1.0, converter=number("radius", least=0, strict=True)
    )
    num_steps: int = 10

    def __check_init__(self):
        check_count("num_steps", self.num_steps)

    def attack(self, seen, *, key):
        x, mean = seen.messages, seen.mean()
        norm = jnp.linalg.norm(mean)
        away = -mean / jnp.where(norm > 0, norm, 1)
        furthest = jnp.sqrt(jnp.square(seen.centred()).sum(1).max())
        radius = self.radius.astype(x.dtype) * furthest

        def harm(m):
            rows = jnp.where(seen.byzantine[:, None], m[None], x)
            return seen.aggregate(rows, key) @ away

        climb = jax.value_and_grad(harm)

        def step(carry, _):
            best, most, gradient, size = carry
            m = best + size * _unit(gradient) - mean
            m = mean + m * jnp.minimum(1, radius / jnp.maximum(_norm(m), radius))
            new = (m, *climb(m))
            better = new[1] > most
            best, most, gradient = jax.tree.map(
                lambda a, b: jnp.where(better, a, b), new, (best, most, gradient)
            )
            return (best, most, gradient, jnp.where(better, size, size / 2)), None

        edge = mean + radius * away
        start = jnp.where(harm(edge) > harm(mean), edge, mean)
        carry = (start, *climb(start), radius)
        (best, *_), _ = jax.lax.scan(step, carry, None, length=self.num_steps)
        return best


def _norm(x: Float[Array, " numbers"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.square(x).sum())


def _unit(x: Float[Array, " numbers"]) -> Float[Array, " numbers"]:
    """The direction, and 0 where there is none."""
    x = jnp.where(jnp.isfinite(x), x, 0)
    norm = _norm(x)
    return x / jnp.where(norm > 0, norm, 1)
