"""How stacked messages lie to one another: their inner products.

A cohort's messages are as large as as many models. So they are gone through leaf by
leaf, and no more than one leaf of them is copied at a time.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._tree import wide_dtype


class Order(eqx.Module):
    """Which of the stacked messages count, and in which order."""

    rows: Int[Array, " rows"]
    there: Bool[Array, " rows"]
    """Of the rows in this order. What is not there is as if it were 0."""

    def of(self, leaf: Float[Array, "rows ..."]) -> Float[Array, "rows numbers"]:
        x = leaf.reshape(self.rows.size, -1)[self.rows]
        return jnp.where(self.there[:, None], x, jnp.zeros_like(x))


def gram(messages: PyTree[Array], order: Order) -> Float[Array, "rows rows"]:
    r"""$\langle m_i, m_j \rangle$."""

    def products(x: Array) -> Array:
        return _dot(x, x.T, preferred_element_type=wide_dtype(x.dtype))

    return _over_leaves(lambda leaf: products(order.of(leaf)), messages)


def along_sum(messages: PyTree[Array], order: Order) -> tuple[Array, Array, Array]:
    r"""With $s = \sum_i m_i$: $\lVert m_i \rVert^2$, $\langle m_i, s \rangle$ and
    $\lVert s \rVert^2$. (Where messages nearly cancel, sums over the Gram matrix have
    lost the last two.)"""

    def products(x: Array) -> tuple[Array, Array, Array]:
        x = x.astype(wide_dtype(x.dtype))
        total = x.sum(0)
        return jnp.square(x).sum(1), _dot(x, total), _dot(total, total)

    return _over_leaves(lambda leaf: products(order.of(leaf)), messages)


_dot = functools.partial(jnp.matmul, precision="highest")


def _over_leaves(products: Callable[[Array], Any], messages: PyTree[Array]) -> Any:
    parts = [products(leaf) for leaf in jtu.tree_leaves(messages)]
    float_of = jnp.result_type(float)
    return jtu.tree_map(lambda *x: sum(p.astype(float_of) for p in x), *parts)
