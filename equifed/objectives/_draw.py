"""How the clients of a random problem are drawn.

A client is drawn from the key, folded with its number: one more client leaves the
others as they are. All are drawn at once, by one program, and with as many rows as the
largest may have, so that nothing is compiled for every size.
"""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from .._check import check_count, check_number
from .._linalg import dot
from .._tree import floating
from ._arrays import is_concrete


Number: TypeAlias = ArrayLike
T = TypeVar("T")


def in_default(x: Number) -> Float[Array, ""]:
    """The number in the dtype of what is drawn."""
    return floating(x).astype(jnp.result_type(float))


def check_spectrum(low: Number, high: Number) -> None:
    check_number("min_eigenvalue", low, least=0, strict=True)
    check_number("max_eigenvalue", high, least=0, strict=True)
    if is_concrete(low, high):
        least, most = np.asarray(low).item(), np.asarray(high).item()
        if most < least:
            raise ValueError(
                "`max_eigenvalue` must be at least `min_eigenvalue`, got "
                f"{most:g} and {least:g}."
            )


def spectrum(
    key: PRNGKeyArray, dim: int, low: Float[Array, ""], high: Float[Array, ""]
) -> tuple[Float[Array, " dim"], Float[Array, "dim dim"]]:
    """The eigenvalues and eigenvectors of a random symmetric matrix, the eigenvalues
    mapped affinely onto the range."""
    matrix_key, single_key = jr.split(key)
    matrix = jr.normal(matrix_key, (dim, dim))
    values, vectors = jnp.linalg.eigh(matrix + matrix.T)
    if dim == 1:
        place = jr.uniform(single_key, (1,))
    else:
        place = (values - values[0]) / (values[-1] - values[0])
    # So that both ends are met exactly.
    return (1 - place) * low + place * high, vectors


def each_client(
    draw: Callable[[PRNGKeyArray], T], num_clients: int, key: PRNGKeyArray
) -> T:
    """What is drawn for each client, stacked."""
    keys = jax.vmap(lambda i: jr.fold_in(key, i))(jnp.arange(num_clients))
    return jax.vmap(draw)(keys)


# From $X w_i$ it makes the targets.
Target: TypeAlias = Callable[[PRNGKeyArray, Float[Array, " rows"]], Array]


def linear_clients(
    num_clients: int,
    dim: int,
    num_examples: int | tuple[int, int],
    eigenvalues: tuple[Number, Number],
    num_informative: int | None,
    *,
    intercept: bool,
    heterogeneity: Number,
    target: Target,
    key: PRNGKeyArray,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The features and targets of clients with linear models."""
    least, most = _range_of(num_examples)
    num_features = check_count("dim", dim) - int(intercept)
    if num_features < 1:
        raise ValueError(
            "`dim` counts the intercept, so it must be at least 2 with "
            f"`intercept=True`, got {dim}."
        )
    informative = num_features if num_informative is None else num_informative
    if not 1 <= check_count("num_informative", informative) <= num_features:
        raise ValueError(
            "`num_informative` must be at most the number of features, "
            f"{num_features} besides an intercept, got {num_informative}."
        )
    check_spectrum(*eigenvalues)
    check_number("heterogeneity", heterogeneity, least=0, strict=False)
    features, outputs, sizes, keys = _linear_clients(
        check_count("num_clients", num_clients),
        num_features,
        jnp.asarray(least),
        most,
        (in_default(eigenvalues[0]), in_default(eigenvalues[1])),
        informative,
        intercept=bool(intercept),
        heterogeneity=in_default(heterogeneity),
        key=key,
    )
    drawn = jax.device_get((features, _targets(target, keys, outputs), sizes))
    return [(x[:n], y[:n]) for x, y, n in zip(*drawn, strict=True)]


@eqx.filter_jit
def _linear_clients(
    num_clients: int,
    num_features: int,
    least: Int[Array, ""],
    most: int,
    eigenvalues: tuple[Float[Array, ""], Float[Array, ""]],
    informative: int,
    *,
    intercept: bool,
    heterogeneity: Float[Array, ""],
    key: PRNGKeyArray,
) -> tuple[Array, Array, Array, Array]:
    """For each client $X$, $X w_i$, how many of the rows it has, and a key for its
    targets."""
    dim = num_features + int(intercept)
    weights_key, chosen_key, clients_key = jr.split(key, 3)
    chosen = jr.permutation(chosen_key, num_features) < informative
    chosen = jnp.append(chosen, jnp.ones(int(intercept), bool))
    common = jnp.where(chosen, jr.normal(weights_key, (dim,)), 0)

    def draw(key: PRNGKeyArray) -> tuple[Array, Array, Array, PRNGKeyArray]:
        size_key, matrix_key, row_key, weight_key, target_key = jr.split(key, 5)
        values, vectors = spectrum(matrix_key, num_features, *eigenvalues)
        rows = jr.normal(row_key, (most, num_features)) * jnp.sqrt(values)[None, :]
        features = dot(rows, vectors.T)
        ones = jnp.ones((most, int(intercept)), features.dtype)
        features = jnp.concatenate([features, ones], axis=1)
        weights = common + heterogeneity * jr.normal(weight_key, (dim,))
        size = jr.randint(size_key, (), least, most + 1)
        return features, dot(features, weights), size, target_key

    return each_client(draw, num_clients, clients_key)


@eqx.filter_jit
def _targets(target: Target, keys: Array, outputs: Array) -> Array:
    return jax.vmap(target)(keys, outputs)


def _range_of(num_examples: int | tuple[int, int]) -> tuple[int, int]:
    pair = num_examples if isinstance(num_examples, tuple) else (num_examples,) * 2
    least, most = (check_count("num_examples", n) for n in pair)
    if least > most:
        raise ValueError(
            "`num_examples` must be a number, or the smallest and the largest one, got "
            f"{num_examples}."
        )
    return least, most
