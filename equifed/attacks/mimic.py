"""Mimic: one honest client is heard many times over."""

import jax.numpy as jnp

from .base import AbstractAttack


class Mimic(AbstractAttack):
    r"""All attackers send the message of one client $i^*$ that they know (Karimireddy
    et al., 2022, arXiv 2006.09365).

    No message is out of place, but where clients differ, one of them is given undue
    weight: that which is furthest out along the direction $z$ in which the messages
    vary most,

    $$z = \arg\max_{\lVert z \rVert = 1} \sum_i \langle z, m_i - \mu \rangle^2, \qquad
    i^* = \arg\max_i \lvert \langle z, m_i - \mu \rangle \rvert.$$

    The paper's attackers follow $z$ over the first rounds, by Oja's rule, and mimic the
    same client ever after, as all clients take part in each of its rounds. Here clients
    may be sampled: both are those of each round's messages, exactly, and nothing is
    kept between rounds. Their program takes the client at that end of $z$ to which a
    random start happens to lead; here it is the end that is further from the mean.
    """

    def attack(self, seen, *, key):
        x = seen.centred()
        # The projections on z are a multiple of the first eigenvector of the matrix of
        # inner products.
        gram = jnp.matmul(x, x.T, precision="highest")
        _, vectors = jnp.linalg.eigh(gram)
        out = jnp.where(seen.known, jnp.abs(vectors[:, -1]), -1)
        return seen.messages[jnp.argmax(out)]
