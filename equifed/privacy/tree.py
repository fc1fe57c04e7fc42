"""Noise of the nodes of a binary tree over the rounds."""

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Int, PyTree

from ..data import OrderedParticipation
from .noise import AbstractNoise, normal_like


class TreeNoise(AbstractNoise):
    r"""Noise by tree aggregation, as in DP-FTRL (Kairouz et al., 2021, arXiv
    2103.00039).

    Counted from 1, round $t$ has a node over the rounds $t - 2^l + 1, ..., t$, where
    $2^l$ is the largest power of two that divides $t$. The sum of the first $t$ rounds
    is that of a few nodes, one for each binary digit 1 of $t$, and its noise is the sum
    of their noises $z$, instead of that of $t$ rounds. In a round the noise changes by

    $$\xi_t = z_t - \sum_{i=0}^{l-1} z_{t - 2^i},$$

    two draws on average. The noise of a node is drawn again from its key where it is
    needed, so that no more is kept than a seed. It is made for any number of rounds.

    The paper's two refinements, Honaker's estimate and the completion of a tree before
    a new one, are not made.
    """

    @property
    def is_independent(self):
        return False

    @property
    def most_rounds(self):
        return None

    def init(self, payload):
        return jnp.zeros(2, jnp.uint32)

    def draw(self, payload, state, *, round, key):
        # All nodes are drawn from the first round's key.
        seed = jnp.where(round == 0, jr.bits(key, (2,), jnp.uint32), state)
        root = jr.key(0, impl=jr.key_impl(key))
        root = jr.fold_in(jr.fold_in(root, seed[0]), seed[1])

        def one(i, carry: tuple[Int[Array, ""], PyTree]):
            node, noise = carry
            drawn = normal_like(payload, jr.fold_in(root, node))
            noise = jtu.tree_map(lambda x, z: jnp.where(i == 0, z, x - z), noise, drawn)
            before = jnp.where(i == 0, node - 1, node & (node - 1))
            return before, noise

        last = round + 1
        height = jax.lax.population_count((last & -last) - 1)
        shapes = jax.eval_shape(normal_like, payload, key)
        none = jtu.tree_map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        _, noise = jax.lax.fori_loop(0, height + 1, one, (last, none))
        return noise, seed

    def sensitivity(self, participation, num_rounds):
        r"""An upper bound, and exact for clients that take part once or always.

        Of the $n_l$ nodes over $2^l$ rounds none has more than $m_l$ rounds of a
        client, and all together no more than its $k$ rounds: the sum of squares is at
        most $\sum_l m_l \min(k, n_l m_l)$.
        """
        most, total, size = participation.most_rounds(num_rounds), 0, 1
        while size <= num_rounds:
            nodes = (num_rounds + size) // (2 * size)
            inside = min(most, _most_within(participation, size))
            total += inside * min(most, nodes * inside)
            size *= 2
        return float(np.sqrt(total))


def _most_within(participation: OrderedParticipation, num_rounds: int) -> int:
    """In how many of so many successive rounds a client takes part at most."""
    apart = -(-num_rounds // participation.min_separation)
    places = num_rounds * participation.cohort_size
    passes = 1 + -(-(places - 1) // participation.num_clients)
    return min(apart, passes)
