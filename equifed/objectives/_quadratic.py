"""Quadratic objectives, the ones for which everything is known."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._check import checked
from .._linalg import dot, solve_positive
from .._types import Loss
from ._arrays import check_optimum, floats, is_concrete, vector
from ._base import AbstractObjective


class Quadratic(AbstractObjective):
    r"""$f(x) = \frac12 x^\top A x - b^\top x + c$ with a symmetric $A$.

    If $A$ is positive definite, $f$ is smallest at $A^{-1} b$, and $e^{-f}$ is the
    density, up to a factor, of a Gaussian with that mean and covariance $A^{-1}$.

    As a client it has one example, with the columns `matrix`, `linear` and `constant`,
    so that every batch gives the exact gradient.

    !!! example

        ```python
        objective = eqf.objectives.Quadratic([[2.0, 0.0], [0.0, 4.0]], [2.0, 4.0])
        objective.optimum()  # [1., 1.]
        ```
    """

    matrix: Float[Array, "dim dim"]
    linear: Float[Array, " dim"]
    constant: Float[Array, ""]

    @checked()
    def __init__(
        self,
        matrix: ArrayLike | Sequence,
        linear: ArrayLike | Sequence,
        constant: ArrayLike = 0.0,
    ):
        """**Arguments:**

        - `matrix`: The symmetric matrix $A$.
        - `linear`: The vector $b$.
        - `constant`: The number $c$.

        **Raises:**

        `ValueError` if the shapes do not fit together or `matrix` is not symmetric.
        """
        self.matrix = floats("matrix", matrix)
        self.linear = floats("linear", linear).astype(self.matrix.dtype)
        self.constant = floats("constant", constant).astype(self.matrix.dtype)

    def __check_init__(self):
        shape = self.matrix.shape
        if len(shape) != 2 or shape[0] != shape[1] or 0 in shape:
            raise ValueError(f"`matrix` must be a square matrix, got shape {shape}.")
        if self.linear.shape != shape[:1]:
            raise ValueError(
                f"`linear` must have shape {shape[:1]}, as `matrix` has {shape}, got "
                f"{self.linear.shape}."
            )
        if self.constant.shape != ():
            raise ValueError(
                f"`constant` must be one number, got shape {self.constant.shape}."
            )
        if is_concrete(self.matrix):
            matrix = np.asarray(self.matrix)
            # As much as a product of two matrices may be off.
            allowed = np.sqrt(jnp.finfo(matrix.dtype).eps) * np.abs(matrix).max()
            worst = np.abs(matrix - matrix.T).max()
            if worst > allowed:
                raise ValueError(
                    "`matrix` must be symmetric, but differs from its transpose by up "
                    f"to {worst:g}. `(A + A.T) / 2` gives the same function."
                )

    @property
    def dim(self) -> int:
        return self.linear.shape[-1]

    @property
    def num_examples(self) -> int:
        return 1

    @property
    def loss(self) -> Loss:
        return quadratic_loss

    def __call__(self, x: ArrayLike | Sequence) -> Float[Array, ""]:
        return _value(vector(x, self.dim), self.matrix, self.linear, self.constant)

    def optimum(self) -> Float[Array, " dim"]:
        return check_optimum(
            solve_positive(self.matrix, self.linear),
            "The quadratic has no single minimum, because `matrix` is not positive "
            "definite (or not finite).",
        )

    def examples(self) -> dict[str, np.ndarray]:
        return {
            "matrix": np.asarray(self.matrix)[None],
            "linear": np.asarray(self.linear)[None],
            "constant": np.asarray(self.constant)[None],
        }

    @classmethod
    def average(
        cls, objectives: Sequence["Quadratic"], *, weighted: bool
    ) -> "Quadratic":
        del weighted  # each has one example
        return mean_quadratic(objectives)


def _value(x: Array, matrix: Array, linear: Array, constant: Array) -> Array:
    half = dot(matrix.astype(x.dtype), x) / 2 - linear.astype(x.dtype)
    return dot(half, x) + constant.astype(x.dtype)


def quadratic_loss(
    model: Float[Array, " dim"], example: dict[str, Array], key: PRNGKeyArray
) -> Float[Array, ""]:
    del key
    return _value(model, example["matrix"], example["linear"], example["constant"])


@checked()
def mean_quadratic(
    quadratics: Sequence[Quadratic], weights: ArrayLike | Sequence | None = None
) -> Quadratic:
    r"""Averages quadratics: $\sum_i w_i f_i \big/ \sum_i w_i$.

    **Arguments:**

    - `quadratics`: At least one, all of the same dimension.
    - `weights`: One for each, all alike if not given.

    **Returns:**

    The quadratic with the means of the matrices, the vectors and the numbers.

    **Raises:**

    `ValueError` if there are no quadratics or their dimensions differ, if there are
    more or fewer weights, or if the weights are not finite, negative or all zero.
    """
    dims = sorted({q.dim for q in quadratics})
    if len(dims) != 1:
        raise ValueError(
            "`quadratics` must be at least one quadratic, all of the same dimension, "
            f"got {len(quadratics)} with the dimensions {dims}."
        )
    w = jnp.ones(len(quadratics)) if weights is None else floats("weights", weights)
    if w.shape != (len(quadratics),):
        raise ValueError(
            f"`weights` must be one number for each of the {len(quadratics)} "
            f"quadratics, got shape {w.shape}."
        )
    if is_concrete(w):
        known = np.asarray(w)
        if not (np.isfinite(known) & (known >= 0)).all() or known.sum() == 0:
            raise ValueError(
                "`weights` must be finite and at least 0, and one of them more than "
                f"0, got {known.tolist()}."
            )
    return Quadratic(
        *_means(
            w,
            [q.matrix for q in quadratics],
            [q.linear for q in quadratics],
            [q.constant for q in quadratics],
        )
    )


@jax.jit
def _means(w: Float[Array, " quadratics"], *kinds: list[Array]) -> list[Array]:
    """The weighted mean of each list of arrays."""
    w = w / w.sum()

    def mean(parts: list[Array]) -> Array:
        stack = jnp.stack([part.astype(parts[0].dtype) for part in parts])
        shares = w.astype(stack.dtype)
        return dot(shares, stack.reshape(len(parts), -1)).reshape(stack.shape[1:])

    return [mean(parts) for parts in kinds]
