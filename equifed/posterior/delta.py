r"""Three ways to solve with a shrinkage estimate of a covariance.

From samples $s_1, \dots, s_l$ in $\mathbb R^d$ with mean $m$ and sample covariance $S$
(unbiased: divided by $l - 1$), the shrinkage estimate is

$$\hat\Sigma = \rho_l I + (1 - \rho_l) S, \qquad \rho_l = \frac{1}{1 + (l - 1) \rho},$$

and what FedPA sends is $\hat\Sigma^{-1} m$, where the samples are displacements from
the server's model. As $\hat\Sigma = \rho_l (I + \rho M)$ with
$M = \sum_i (s_i - m)(s_i - m)^\top$, of rank $l - 1$, this needs no matrix of size
$d \times d$.

The inner products are those of whole PyTrees: $d$ counts the numbers of all leaves.
"""

import functools

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from .._linalg import as_rows, dot
from .._tree import (
    tree_add,
    tree_add_scaled,
    tree_scale,
    tree_sub,
)
from .._types import Params
from .base import Stacked


def woodbury(samples: Stacked, rho: Float[Array, ""]) -> Params:
    r"""By the Woodbury identity, in $O(l^2 d)$ time and $O(l d)$ memory.

    With $W = H (s - 1 m^\top)$, where the rows of the $(l - 1) \times l$ matrix $H$ are
    orthonormal to each other and to the ones, $M = W^\top W$ and

    $$\hat\Sigma^{-1} m = (1 + (l - 1) \rho) \left[ m - \rho W^\top (I + \rho W
    W^\top)^{-1} W m \right].$$

    $H$ takes out the direction in which all centred samples cancel, which would only
    add rounding errors.
    """
    mean, centred = _centred(samples)
    length = _length(samples)
    if length == 1:
        return mean
    if sum(x.size for x in jtu.tree_leaves(mean)) < length:
        # With fewer numbers than samples the d x d matrix is the smaller one; and here
        # all of m lies in the span of W, where the difference below cancels.
        return dense(samples, rho)
    helmert = _helmert(length).astype(rho.dtype)
    gram = dot(dot(helmert, _gram(centred, centred, rho.dtype)), helmert.T)
    right = dot(helmert, _product(centred, mean, rho.dtype))
    matrix = jnp.eye(length - 1, dtype=rho.dtype) + rho * gram
    solved = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), right)
    correction = _combine(-rho * dot(solved, helmert), centred)
    return tree_scale(1 + (length - 1) * rho, tree_add(mean, correction))


def dynamic(samples: Stacked, rho: Float[Array, ""]) -> Params:
    r"""By the paper's dynamic programming, one sample after another.

    $O(l^2 d)$ time and $O(l d)$ memory too, but $l$ steps that must follow one another.
    With $\tilde\Sigma_t = I + \rho M_t$, which each sample changes by a matrix of rank
    one, $\tilde\Sigma_t = \tilde\Sigma_{t-1} + \gamma_t u_t u_t^\top$ with $u_t = s_t -
    m_{t-1}$ and $\gamma_t = \rho (t - 1) / t$, the Sherman-Morrison formula gives
    $v_t = \tilde\Sigma_{t-1}^{-1} u_t$ and $d_t = \tilde\Sigma_t^{-1} m_t$.
    """
    first = jtu.tree_map(lambda x: x[0], samples)
    length = _length(samples)
    if length == 1:
        return first

    def advance(carry, t):
        mean, delta, vectors, factors = carry
        sample = jtu.tree_map(lambda x: x[t], samples)
        count = (t + 1).astype(rho.dtype)
        gamma = rho * t.astype(rho.dtype) / count
        u = tree_sub(sample, mean)
        # Of the vectors still to come the factors are 0.
        known = factors * _product(vectors, u, rho.dtype)
        v = tree_sub(u, _combine(known, vectors))
        q = _inner(u, v, rho.dtype)
        # The mean moves by u / t; what the inverse does to it follows.
        step = gamma * (count * _inner(u, delta, rho.dtype) + q) / (1 + gamma * q)
        delta = tree_add_scaled(delta, (1 - step) / count, v)
        mean = tree_add_scaled(mean, 1 / count, u)
        vectors = jtu.tree_map(lambda x, y: x.at[t - 1].set(y), vectors, v)
        factors = factors.at[t - 1].set(gamma / (1 + gamma * q))
        return (mean, delta, vectors, factors), None

    vectors = jtu.tree_map(lambda x: jnp.zeros_like(x[1:]), samples)
    factors = jnp.zeros((length - 1,), rho.dtype)
    carry = (first, first, vectors, factors)
    numbers = jnp.arange(1, length, dtype=jnp.int32)
    (_, delta, _, _), _ = jax.lax.scan(advance, carry, numbers)
    return tree_scale(1 + (length - 1) * rho, delta)


def dense(samples: Stacked, rho: Float[Array, ""]) -> Params:
    r"""By forming $\hat\Sigma$, in $O(d^3)$ time and $O(d^2)$ memory: the reference."""
    flat, unravel = as_rows(samples)
    mean, centred = _centred(flat)
    factor = jax.scipy.linalg.cho_factor(covariance(flat, rho))
    solution = jax.scipy.linalg.cho_solve(factor, mean)
    # The rounding of the matrix's entries costs as many digits as its condition
    # number has; one refinement with the samples themselves brings them back.
    rho = rho.astype(flat.dtype)
    scatter = _combine(_product(centred, solution, flat.dtype), centred)
    shrunk = (solution + rho * scatter) / (1 + (flat.shape[0] - 1) * rho)
    return unravel(solution + jax.scipy.linalg.cho_solve(factor, mean - shrunk))


def covariance(
    samples: Float[Array, "samples params"], rho: Float[Array, ""]
) -> Float[Array, "params params"]:
    r"""$\hat\Sigma$ itself."""
    length, dim = samples.shape
    rho = rho.astype(samples.dtype)
    weight = 1 / (1 + (length - 1) * rho)
    centred = samples - samples.mean(0, keepdims=True)
    # (1 - rho_l) / (l - 1), which one sample would divide by zero.
    scatter = weight * rho * dot(centred.T, centred)
    return weight * jnp.eye(dim, dtype=samples.dtype) + scatter


def _length(samples: Stacked) -> int:
    return jtu.tree_leaves(samples)[0].shape[0]


def _centred(samples: Stacked) -> tuple[Params, Stacked]:
    mean = jtu.tree_map(lambda x: x.mean(0), samples)
    return mean, jtu.tree_map(lambda x, m: x - m[None], samples, mean)


def _helmert(length: int) -> Float[Array, "rows samples"]:
    """Helmert's matrix: orthonormal rows, each of which adds up to zero."""
    row = jnp.arange(1, length, dtype=jnp.result_type(float))[:, None]
    column = jnp.arange(length)[None, :]
    number = jnp.arange(1, length)[:, None]
    entries = jnp.where(column < number, 1, jnp.where(column == number, -row, 0))
    return entries / jnp.sqrt(row * (row + 1))


def _rows(x: Array) -> Float[Array, "samples numbers"]:
    return x.reshape(x.shape[0], -1)


def _gram(
    x: Stacked, y: PyTree[Float[Array, "others ..."]], dtype: jnp.dtype
) -> Float[Array, "samples others"]:
    products = jtu.tree_map(lambda a, b: dot(_rows(a), _rows(b).T), x, y)
    leaves = [p.astype(dtype) for p in jtu.tree_leaves(products)]
    return functools.reduce(jnp.add, leaves)


def _product(x: Stacked, y: Params, dtype: jnp.dtype) -> Float[Array, " samples"]:
    return _gram(x, jtu.tree_map(lambda a: a[None], y), dtype)[:, 0]


def _inner(x: Params, y: Params, dtype: jnp.dtype) -> Float[Array, ""]:
    return _product(jtu.tree_map(lambda a: a[None], x), y, dtype)[0]


def _combine(weights: Float[Array, " samples"], x: Stacked) -> Params:
    def one(a):
        rows = dot(weights.astype(a.dtype), _rows(a))
        return rows.reshape(a.shape[1:])

    return jtu.tree_map(one, x)
