"""Linear regression."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .._check import as_number, checked
from .._linalg import dot, solve_positive
from .._types import Loss
from ._arrays import check_optimum, check_rows, floats, vector
from ._base import AbstractObjective
from ._quadratic import mean_quadratic, Quadratic


class LeastSquares(AbstractObjective):
    r"""$f(w) = \frac12 \left[ \frac1n \lVert X w - y \rVert^2 + \lambda \lVert w
    \rVert^2 \right]$.

    It is smallest where $(X^\top X / n + \lambda I) w = X^\top y / n$. As a client it
    has one example for each row of $X$, with the columns `x` and `y`.
    """

    features: Float[Array, "examples dim"]
    targets: Float[Array, " examples"]
    l2: Float[Array, ""]

    @checked()
    def __init__(
        self,
        features: ArrayLike | Sequence,
        targets: ArrayLike | Sequence,
        *,
        l2: ArrayLike = 0.0,
    ):
        r"""**Arguments:**

        - `features`: The matrix $X$.
        - `targets`: The vector $y$.
        - `l2`: The regularisation $\lambda$.

        **Raises:**

        `ValueError` if the shapes do not fit together, or `l2` is negative.
        """
        self.features = floats("features", features)
        self.targets = floats("targets", targets).astype(self.features.dtype)
        self.l2 = as_number("l2", l2, least=0)

    def __check_init__(self):
        check_rows("features", self.features, {"targets": self.targets})

    @property
    def dim(self) -> int:
        return self.features.shape[-1]

    @property
    def num_examples(self) -> int:
        return self.features.shape[-2]

    @property
    def loss(self) -> Loss:
        return SquaredError(self.l2)

    def __call__(self, x: ArrayLike | Sequence) -> Float[Array, ""]:
        x = vector(x, self.dim)
        errors = dot(self.features.astype(x.dtype), x) - self.targets.astype(x.dtype)
        return (jnp.mean(errors**2) + self.l2.astype(x.dtype) * dot(x, x)) / 2

    def quadratic(self) -> Quadratic:
        r"""Builds the same function as a quadratic.

        **Returns:**

        The [`equifed.objectives.Quadratic`][] with $A = X^\top X / n + \lambda I$,
        $b = X^\top y / n$ and $c = y^\top y / 2n$.
        """
        return Quadratic(*_parts(self.features, self.targets, self.l2))

    def optimum(self) -> Float[Array, " dim"]:
        quadratic = self.quadratic()
        return check_optimum(
            solve_positive(quadratic.matrix, quadratic.linear),
            f"Least squares with {self.num_examples} examples of {self.dim} features "
            "has no single minimum, because the features are linearly dependent (or "
            "not finite). Set `l2` above 0, or a larger one.",
        )

    def examples(self) -> dict[str, np.ndarray]:
        return {"x": np.asarray(self.features), "y": np.asarray(self.targets)}

    @classmethod
    def average(
        cls, objectives: Sequence["LeastSquares"], *, weighted: bool
    ) -> "LeastSquares | Quadratic":
        if not weighted:
            # No rows that count alike have this mean, but it is a quadratic.
            return mean_quadratic([o.quadratic() for o in objectives])
        return LeastSquares(
            jnp.concatenate([o.features for o in objectives]),
            jnp.concatenate([o.targets for o in objectives]),
            l2=objectives[0].l2,
        )


@jax.jit
def _parts(
    x: Float[Array, "examples dim"],
    y: Float[Array, " examples"],
    l2: Float[Array, ""],
) -> tuple[Float[Array, "dim dim"], Float[Array, " dim"], Float[Array, ""]]:
    """The matrix, the vector and the number of the quadratic."""
    n, dim = x.shape
    ridge = l2.astype(x.dtype) * jnp.eye(dim, dtype=x.dtype)
    return dot(x.T, x) / n + ridge, dot(x.T, y) / n, dot(y, y) / (2 * n)


class SquaredError(eqx.Module):
    r"""$\frac12 (x^\top w - y)^2 + \frac\lambda2 \lVert w \rVert^2$."""

    l2: Float[Array, ""]

    def __call__(
        self,
        model: Float[Array, " dim"],
        example: dict[str, Array],
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del key
        error = dot(example["x"].astype(model.dtype), model)
        error = error - example["y"].astype(model.dtype)
        return (error**2 + self.l2.astype(model.dtype) * dot(model, model)) / 2
