r"""Messages as far out as the honest ones' distances to each other allow.

Both attacks of Shejwalkar and Houmansadr (Manipulating the Byzantine, NDSS 2021) that
know nothing of the server's rule send $\mu + \gamma p$, with the largest $\gamma$ for
which that is no further from the known messages than they are from each other. The
paper looks for it by bisection. But it is where a square of a distance, a parabola in
$\gamma$, reaches a bound, so it is known.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._check import checked
from .base import AbstractAttack, Seen


Perturbation = Literal["unit", "std", "sign"]


class MinMax(AbstractAttack):
    r"""All attackers send $\mu + \gamma p$ with the largest $\gamma$ such that its
    largest distance to a known message is at most that of two of those:
    $\max_i \lVert \mu + \gamma p - m_i \rVert \le \max_{ij} \lVert m_i - m_j \rVert$.

    **Arguments:**

    - `perturbation`: the $p$, from the known messages: `"unit"`, $-\mu / \lVert \mu
        \rVert$; `"std"`, the negative standard deviation of each number; or `"sign"`,
        $-\operatorname{sign}(\mu)$.

    ??? cite "Reference"

        [Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for
        Federated Learning](https://doi.org/10.14722/ndss.2021.24498)

        ```bibtex
        @inproceedings{shejwalkar2021manipulating,
            title={{M}anipulating the {B}yzantine: {O}ptimizing {M}odel {P}oisoning
                   {A}ttacks and {D}efenses for {F}ederated {L}earning},
            author={Shejwalkar, Virat and Houmansadr, Amir},
            booktitle={NDSS},
            year={2021},
        }
        ```
    """

    perturbation: Perturbation

    @checked()
    def __init__(self, *, perturbation: Perturbation = "std"):
        self.perturbation = perturbation

    def attack(self, seen, *, key):
        x, p = seen.centred(), _perturbation(seen, self.perturbation)
        squares, products = jnp.square(x).sum(1), _product(x, p)
        # The square of the distance is |p|^2 g^2 - 2 <p, x_i> g + |x_i|^2.
        room = _pairs(x, seen).max() - squares
        square = jnp.square(p).sum()
        root = jnp.sqrt(jnp.square(products) + square * jnp.maximum(room, 0))
        largest = (products + root) / jnp.where(square > 0, square, 1)
        gamma = jnp.min(jnp.where(seen.known, largest, jnp.inf))
        return seen.mean() + gamma * p


class MinSum(AbstractAttack):
    r"""As [`equifed.attacks.MinMax`][], with the sum of the squares of the distances to
    the known messages at most the largest such sum of one of those:
    $\sum_i \lVert \mu + \gamma p - m_i \rVert^2 \le \max_i \sum_j \lVert m_i - m_j
    \rVert^2$.

    **Arguments:**

    - `perturbation`: as there.
    """

    perturbation: Perturbation

    @checked()
    def __init__(self, *, perturbation: Perturbation = "std"):
        self.perturbation = perturbation

    def attack(self, seen, *, key):
        x, p = seen.centred(), _perturbation(seen, self.perturbation)
        room = _pairs(x, seen).sum(1).max() - jnp.square(x).sum()
        square = seen.known.sum().astype(x.dtype) * jnp.square(p).sum()
        gamma = jnp.sqrt(jnp.maximum(room, 0) / jnp.where(square > 0, square, 1))
        return seen.mean() + gamma * p


def _perturbation(seen: Seen, kind: Perturbation) -> Float[Array, " numbers"]:
    mean = seen.mean()
    if kind == "unit":
        norm = jnp.linalg.norm(mean)
        return -mean / jnp.where(norm > 0, norm, 1)
    return -seen.std() if kind == "std" else -jnp.sign(mean)


def _product(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision="highest")


def _pairs(
    x: Float[Array, "messages numbers"], seen: Seen
) -> Float[Array, "messages messages"]:
    """The squares of the distances of the known messages, of which these are less their
    mean; 0 for others."""
    squares = jnp.square(x).sum(1)
    pairs = squares[:, None] + squares[None] - 2 * _product(x, x.T)
    both = seen.known[:, None] & seen.known[None]
    return jnp.where(both, jnp.maximum(pairs, 0), 0)
