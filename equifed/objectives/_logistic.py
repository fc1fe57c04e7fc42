r"""Logistic regression, whose minimum Newton's method finds.

With labels $y \in \{0, 1\}$ and the sign $s = 2y - 1$ the loss $\log(1 + e^z) - y z$ is
$\log(1 + e^{-s z})$. It is computed in the second form: the first is a difference of
large numbers, which is 0 long before the loss is.

If a hyperplane separates the classes and nothing regularises, the loss has no
minimum, yet its gradient vanishes far out. So Newton's method does not look at the
gradient: it has arrived when its step is small, and a step does not become small on
the way to infinity.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Shaped

from .._check import as_number, checked
from .._linalg import dot
from .._types import Loss
from ._arrays import (
    array_of,
    check_optimum,
    check_rows,
    floats,
    is_concrete,
    vector,
)
from ._base import AbstractObjective
from ._newton import newton


class LogisticRegression(AbstractObjective):
    r"""$f(w) = \frac1n \sum_j r_j \left[ \log(1 + e^{z_j}) - y_j z_j \right] +
    \frac\lambda2 \lVert w \rVert^2$, where $z = X w$ and $y_j$ is 0 or 1.

    It is smallest where Newton's method, with a line search, arrives. The weights
    $r_j$ are 1 unless given. As a client it has one example for each row of $X$, with
    the columns `x` and `y`, and `weight` if there are weights.
    """

    features: Float[Array, "examples dim"]
    labels: Shaped[Array, " examples"]
    l2: Float[Array, ""]
    weights: Float[Array, " examples"] | None

    @checked()
    def __init__(
        self,
        features: ArrayLike | Sequence,
        labels: ArrayLike | Sequence,
        *,
        l2: ArrayLike = 0.0,
        weights: ArrayLike | Sequence | None = None,
    ):
        r"""**Arguments:**

        - `features`: The matrix $X$.
        - `labels`: The vector $y$ of zeros and ones, of any dtype.
        - `l2`: The regularisation $\lambda$.
        - `weights`: How much each example counts; they are divided by their mean to
            give $r$. All alike if not given.

        **Raises:**

        `ValueError` if the shapes do not fit together, a label is neither 0 nor 1,
        `l2` is negative, or the weights are not finite, negative or all zero.
        """
        self.features = floats("features", features)
        self.labels = array_of("labels", labels)
        self.l2 = as_number("l2", l2, least=0)
        self.weights = None
        if weights is not None:
            rows = floats("weights", weights).astype(self.features.dtype)
            _check_weights(self.features, rows)
            self.weights = rows / rows.mean()

    def __check_init__(self):
        check_rows("features", self.features, {"labels": self.labels})
        if is_concrete(self.labels):
            kinds = np.unique(np.asarray(self.labels))
            if not np.isin(kinds, (0, 1)).all():
                raise ValueError(
                    f"`labels` must be 0 or 1, got {kinds[:5].tolist()}"
                    f"{' and others' if len(kinds) > 5 else ''}."
                )

    @property
    def dim(self) -> int:
        return self.features.shape[-1]

    @property
    def num_examples(self) -> int:
        return self.features.shape[-2]

    @property
    def loss(self) -> Loss:
        return LogisticLoss(self.l2)

    def __call__(self, x: ArrayLike | Sequence) -> Float[Array, ""]:
        x = vector(x, self.dim)
        z = dot(self.features.astype(x.dtype), x)
        losses = _log_loss(z, self.labels)
        if self.weights is not None:
            losses = self.weights.astype(x.dtype) * losses
        return jnp.mean(losses) + self.l2.astype(x.dtype) / 2 * dot(x, x)

    def optimum(self) -> Float[Array, " dim"]:
        dtype = self.features.dtype
        weights = self.weights
        weights = jnp.ones(self.num_examples, dtype) if weights is None else weights
        return check_optimum(
            _minimum(self.features, self.labels.astype(dtype), weights, self.l2),
            f"Logistic regression with {self.num_examples} examples of {self.dim} "
            "features has no single minimum that Newton's method could find. The "
            "classes may be separated by a hyperplane, or the features linearly "
            "dependent (or not finite). Set `l2` above 0, or a larger one.",
        )

    def examples(self) -> dict[str, np.ndarray]:
        columns = {"x": np.asarray(self.features), "y": np.asarray(self.labels)}
        if self.weights is not None:
            columns["weight"] = np.asarray(self.weights)
        return columns

    @classmethod
    def average(
        cls, objectives: Sequence["LogisticRegression"], *, weighted: bool
    ) -> "LogisticRegression":
        rows = None
        if not weighted or any(o.weights is not None for o in objectives):
            # In the mean, a row counts by its share of what its client counts.
            dtype = objectives[0].features.dtype
            rows = jnp.concatenate(
                [_row_weights(o, dtype, weighted=weighted) for o in objectives]
            )
        return LogisticRegression(
            jnp.concatenate([o.features for o in objectives]),
            jnp.concatenate([o.labels for o in objectives]),
            l2=objectives[0].l2,
            weights=rows,
        )


class LogisticLoss(eqx.Module):
    r"""$r \left[ \log(1 + e^z) - y z \right] + \frac\lambda2 \lVert w \rVert^2$ with
    $z = x^\top w$; without a column `weight`, $r = 1$."""

    l2: Float[Array, ""]

    def __call__(
        self,
        model: Float[Array, " dim"],
        example: dict[str, Array],
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del key
        loss = _log_loss(dot(example["x"].astype(model.dtype), model), example["y"])
        if "weight" in example:
            loss = example["weight"].astype(model.dtype) * loss
        return loss + self.l2.astype(model.dtype) / 2 * dot(model, model)


@jax.jit
def _minimum(
    features: Float[Array, "examples dim"],
    labels: Float[Array, " examples"],
    weights: Float[Array, " examples"],
    l2: Float[Array, ""],
) -> Float[Array, " dim"]:
    signed = _signs(labels, features.dtype)[:, None] * features
    return newton(signed, weights / len(features), l2.astype(features.dtype))


def _log_loss(z: Array, labels: Array) -> Array:
    return jax.nn.softplus(-_signs(labels, z.dtype) * z)


def _signs(labels: Array, dtype: jnp.dtype) -> Array:
    return 2 * labels.astype(dtype) - 1


def _row_weights(o: LogisticRegression, dtype: jnp.dtype, *, weighted: bool) -> Array:
    ones = jnp.ones(o.num_examples, dtype)
    rows = ones if o.weights is None else o.weights.astype(dtype)
    return rows if weighted else rows / o.num_examples


def _check_weights(features: Array, weights: Array) -> None:
    check_rows("features", features, {"weights": weights})
    if not is_concrete(weights):
        return
    known = np.asarray(weights)
    if not (np.isfinite(known) & (known >= 0)).all() or known.sum() == 0:
        raise ValueError(
            "`weights` must be finite and at least 0, and one of them more than 0, "
            f"got some from {known.min():g} to {known.max():g}."
        )
