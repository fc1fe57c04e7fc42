"""Matrices as products of two thin ones."""

import math

import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array

from .._check import check_count, check_seed, checked
from .._tree import tree_wide
from .base import AbstractCompressor, Sent, sum_of, width


class PowerSGD(AbstractCompressor):
    r"""Sends a matrix as $P Q^\top$ of rank $r$, by a step of power iteration.

    With $Q$ as it was last: $P$ is $M Q$ with its columns made orthonormal, and $Q
    \leftarrow M^\top P$. An array of more than two axes is a matrix of its first axis
    by all others. Vectors, and matrices that would take no fewer bits, are sent as they
    are. Biased: it goes with [`equifed.compress.ErrorFeedback`][].

    In the paper the workers average their $M_i Q$ and their $M_i^\top P$ in two rounds
    of communication, and have one $Q$. Here a client takes its own step, from the $Q$
    of its own last message, which both ends keep; the server averages the products.

    **Arguments:**

    - `rank`: $r$, the rank of what is sent.
    - `seed`: of the $Q$ that all begin with.

    ??? cite "Reference"

        [PowerSGD: Practical Low-Rank Gradient Compression for Distributed
        Optimization](https://arxiv.org/abs/1905.13727)

        ```bibtex
        @inproceedings{vogels2019powersgd,
            title={{P}ower{SGD}: {P}ractical {L}ow-{R}ank {G}radient {C}ompression for
                   {D}istributed {O}ptimization},
            author={Vogels, Thijs and Karimireddy, Sai Praneeth and Jaggi, Martin},
            booktitle={NeurIPS},
            year={2019},
        }
        ```
    """

    rank: int
    seed: int

    @checked()
    def __init__(self, rank: int, *, seed: int = 0):
        self.rank = check_count("rank", rank)
        self.seed = check_seed(seed)

    def init(self, payload):
        key = jr.key(self.seed % 2**32)
        leaves = jtu.tree_leaves(payload)
        return [
            jr.normal(jr.fold_in(key, i), (_columns(x), self.rank), tree_wide(x).dtype)
            for i, x in enumerate(leaves)
            if self._thin(x)
        ]

    def _thin(self, x: Array) -> bool:
        numbers = self.rank * (x.shape[0] + _columns(x)) if x.ndim > 1 else x.size
        return numbers * width(tree_wide(x)) < x.size * width(x)

    def compress(self, payload, memory, *, key, round):
        leaves, structure = jtu.tree_flatten(payload)
        old, new, decoded, sent = list(memory), [], [], []
        for x in leaves:
            if not self._thin(x):
                decoded.append(tree_wide(x))
                sent.append(Sent.plain(x.size * width(x)))
                continue
            x = tree_wide(x)
            matrix = x.reshape(x.shape[0], -1)
            p = jnp.matmul(matrix, old.pop(0), precision="highest")
            p, _ = jnp.linalg.qr(p)
            q = jnp.matmul(matrix.T, p, precision="highest")
            new.append(q)
            decoded.append(jnp.matmul(p, q.T, precision="highest").reshape(x.shape))
            sent.append(Sent.plain((p.size + q.size) * width(x)))
        return jtu.tree_unflatten(structure, decoded), new, sum_of(sent)


def _columns(x: Array) -> int:
    return math.prod(x.shape[1:])
