"""Random problems, with the curvature and the heterogeneity that one asks for."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_count, check_number, checked
from .._linalg import dot
from ._draw import (
    check_spectrum,
    each_client,
    in_default,
    linear_clients,
    Number,
    spectrum,
)
from ._least_squares import LeastSquares
from ._logistic import LogisticRegression
from ._problem import FederatedProblem
from ._quadratic import Quadratic


@checked()
def random_quadratics(
    num_clients: int,
    dim: int,
    *,
    min_eigenvalue: Number = 1.0,
    max_eigenvalue: Number = 10.0,
    heterogeneity: Number = 1.0,
    diagonal: bool = False,
    key: PRNGKeyArray,
) -> FederatedProblem:
    r"""Draws clients with quadratic objectives.

    The matrix $A_i$ of a client is a random symmetric matrix, whose eigenvalues are
    mapped affinely onto the range asked for, so that the smallest and the largest are
    its ends. (In one dimension there is only one: it is uniform on the range.) The
    client's optimum is $x_i = \bar x + h z_i$ with standard normal $\bar x$ and $z_i$,
    and $b_i = A_i x_i$.

    **Arguments:**

    - `num_clients`: The number of clients.
    - `dim`: The dimension.
    - `min_eigenvalue`: The smallest eigenvalue, more than 0.
    - `max_eigenvalue`: The largest eigenvalue.
    - `heterogeneity`: How far apart the clients' optima are, $h$. With 0 they all have
        the same one.
    - `diagonal`: Whether the matrices are diagonal, with entries uniform on the range.
    - `key`: The randomness.

    **Returns:**

    The problem, of [`equifed.objectives.Quadratic`][]s.
    """
    dim = check_count("dim", dim)
    check_spectrum(min_eigenvalue, max_eigenvalue)
    check_number("heterogeneity", heterogeneity, least=0, strict=False)
    drawn = _quadratics(
        check_count("num_clients", num_clients),
        dim,
        in_default(min_eigenvalue),
        in_default(max_eigenvalue),
        heterogeneity=in_default(heterogeneity),
        diagonal=bool(diagonal),
        key=key,
    )
    pairs = zip(*jax.device_get(drawn), strict=True)
    return FederatedProblem([Quadratic(matrix, linear) for matrix, linear in pairs])


@eqx.filter_jit
def _quadratics(
    num_clients: int,
    dim: int,
    low: Float[Array, ""],
    high: Float[Array, ""],
    *,
    heterogeneity: Float[Array, ""],
    diagonal: bool,
    key: PRNGKeyArray,
) -> tuple[Array, Array]:
    """The matrices and vectors of all clients."""
    common_key, clients_key = jr.split(key)
    common = jr.normal(common_key, (dim,))

    def draw(key: PRNGKeyArray) -> tuple[Array, Array]:
        matrix_key, optimum_key = jr.split(key)
        if diagonal:
            matrix = jnp.diag(jr.uniform(matrix_key, (dim,), minval=low, maxval=high))
        else:
            values, vectors = spectrum(matrix_key, dim, low, high)
            half = vectors * jnp.sqrt(values)[None, :]
            matrix = dot(half, half.T)
        optimum = common + heterogeneity * jr.normal(optimum_key, (dim,))
        return matrix, dot(matrix, optimum)

    return each_client(draw, num_clients, clients_key)


@checked()
def random_least_squares(
    num_clients: int,
    dim: int,
    *,
    num_examples: int | tuple[int, int] = 100,
    min_eigenvalue: Number = 1.0,
    max_eigenvalue: Number = 10.0,
    num_informative: int | None = None,
    intercept: bool = False,
    heterogeneity: Number = 1.0,
    noise: Number = 0.0,
    l2: Number = 0.0,
    key: PRNGKeyArray,
) -> FederatedProblem:
    r"""Draws clients with linear regressions.

    A client's features are normal, with mean 0 and a covariance drawn as the matrices
    of [`equifed.objectives.random_quadratics`][]: its eigenvalues span the range asked
    for, and every client has a rotation of its own. Its weights are
    $w_i = \bar w + h z_i$, and $y = X w_i + \sigma \varepsilon$, with standard normal
    $\bar w$, $z_i$ and $\varepsilon$.

    **Arguments:**

    - `num_clients`: The number of clients.
    - `dim`: The dimension of the weights, the intercept included.
    - `num_examples`: How many examples each client has, or the smallest and the largest
        number of a uniform choice.
    - `min_eigenvalue`: The smallest eigenvalue of the covariance, more than 0.
    - `max_eigenvalue`: The largest eigenvalue of the covariance.
    - `num_informative`: How many of $\bar w$, the intercept aside, are not 0; which
        ones is random. All if not given.
    - `intercept`: Whether the last column of the features is all ones.
    - `heterogeneity`: How far apart the clients' weights are, $h$.
    - `noise`: The standard deviation $\sigma$ of the noise.
    - `l2`: The regularisation.
    - `key`: The randomness.

    **Returns:**

    The problem, of [`equifed.objectives.LeastSquares`][].
    """
    check_number("noise", noise, least=0, strict=False)
    rows = linear_clients(
        num_clients,
        dim,
        num_examples,
        (min_eigenvalue, max_eigenvalue),
        num_informative,
        intercept=intercept,
        heterogeneity=heterogeneity,
        target=jtu.Partial(_noisy, in_default(noise)),
        key=key,
    )
    return FederatedProblem([LeastSquares(x, y, l2=l2) for x, y in rows])


def _noisy(noise: Float[Array, ""], key: PRNGKeyArray, z: Array) -> Array:
    return z + noise * jr.normal(key, z.shape)


@checked()
def random_logistic(
    num_clients: int,
    dim: int,
    *,
    num_examples: int | tuple[int, int] = 100,
    min_eigenvalue: Number = 1.0,
    max_eigenvalue: Number = 10.0,
    num_informative: int | None = None,
    intercept: bool = False,
    heterogeneity: Number = 1.0,
    l2: Number = 0.01,
    key: PRNGKeyArray,
) -> FederatedProblem:
    r"""Draws clients with logistic regressions.

    Features and weights are drawn as in [`equifed.objectives.random_least_squares`][];
    a label is 1 with probability $1 / (1 + e^{-z})$, where $z = x^\top w_i$.

    **Arguments:**

    - `num_clients`, `dim`, `num_examples`, `min_eigenvalue`, `max_eigenvalue`,
        `num_informative`, `intercept`, `heterogeneity`: As there.
    - `l2`: The regularisation. With 0, clients that can be separated have no optimum.
    - `key`: The randomness.

    **Returns:**

    The problem, of [`equifed.objectives.LogisticRegression`][]s.
    """
    rows = linear_clients(
        num_clients,
        dim,
        num_examples,
        (min_eigenvalue, max_eigenvalue),
        num_informative,
        intercept=intercept,
        heterogeneity=heterogeneity,
        target=_labels,
        key=key,
    )
    return FederatedProblem([LogisticRegression(x, y, l2=l2) for x, y in rows])


def _labels(key: PRNGKeyArray, z: Array) -> Array:
    return jr.bernoulli(key, jax.nn.sigmoid(z)).astype(jnp.int32)
