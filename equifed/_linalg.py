"""Products and solutions that can be compared with.

An accelerator multiplies matrices in reduced precision unless told otherwise, and a
solver answers for any matrix. What an experiment is measured against, and what
posteriors are solved with, must be neither: here products are in full precision, and a
matrix that is not positive definite has no solution.

Norms and sums of whole PyTrees are in `_tree.py`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PyTree


dot = functools.partial(jnp.matmul, precision="highest")


@jax.jit
def solve_positive(
    matrix: Float[Array, "dim dim"], vector: Float[Array, " dim"]
) -> Float[Array, " dim"]:
    """Solves with a symmetric matrix; NaN unless it is positive definite."""
    solution = jnp.linalg.solve(matrix, vector)
    return jnp.where(is_positive(matrix), solution, jnp.nan)


def is_positive(matrix: Float[Array, "dim dim"]) -> Bool[Array, ""]:
    """Whether a symmetric matrix is positive definite beyond rounding, in whatever
    units each variable is measured."""
    matrix = jax.lax.stop_gradient(matrix)
    scale = jax.lax.rsqrt(jnp.diagonal(matrix))  # NaN or infinite unless positive
    values = jnp.linalg.eigvalsh(scale[:, None] * matrix * scale[None, :])
    return values[0] > 4 * matrix.shape[-1] * float(jnp.finfo(matrix.dtype).eps)


def as_rows(
    trees: PyTree[Float[Array, "rows ..."]],
) -> tuple[Float[Array, "rows numbers"], Callable[[Array], Any]]:
    """Stacked trees as a matrix, and the function that makes a tree of a row."""
    _, unravel = jax.flatten_util.ravel_pytree(jtu.tree_map(lambda x: x[0], trees))
    rows = jax.vmap(lambda tree: jax.flatten_util.ravel_pytree(tree)[0])(trees)
    return rows, unravel
