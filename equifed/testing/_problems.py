"""Small federated problems with known answers."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_count, check_kind, check_number, check_seed, checked
from .._roles import Role, Roles, roles
from .._tree import floating
from ..data import FederatedDataset


class Point(eqx.Module):
    """A model that is one number."""

    x: Float[Array, ""] = eqx.field(converter=floating)


def quadratic_loss(
    model: Point, example: dict[str, Array], key: PRNGKeyArray
) -> Float[Array, ""]:
    r"""$\frac a2 (x - b)^2$."""
    del key
    difference = model.x - example["b"].astype(model.x.dtype)
    return example["a"].astype(model.x.dtype) / 2 * difference**2


class Quadratics(eqx.Module):
    r"""Clients with objectives $f_i(x) = \frac{a_i}{2} (x - b_i)^2$.

    Client $i$ holds `num_examples[i]` copies of the one example $(a_i, b_i)$, so that
    every batch of it gives its exact gradient.
    """

    curvatures: tuple[float, ...]
    centres: tuple[float, ...]
    num_examples: tuple[int, ...]

    def __check_init__(self):
        for name in ("curvatures", "centres", "num_examples"):
            values = getattr(self, name)
            check_kind(name, values, tuple)
            if len(values) != len(self.curvatures) or not values:
                raise ValueError(
                    "`curvatures`, `centres` and `num_examples` must have one number "
                    f"for each client, got {len(self.curvatures)} and {len(values)}."
                )
        for a, b, n in zip(
            self.curvatures, self.centres, self.num_examples, strict=True
        ):
            check_number("curvatures", a, least=0, strict=True)
            # Not always finite: a client whose centre is NaN diverges at once.
            check_kind("centres", b, (int, float, np.number))
            check_count("num_examples", n, least=0)

    def dataset(self) -> FederatedDataset:
        columns = zip(self.curvatures, self.centres, self.num_examples, strict=True)
        return FederatedDataset.from_mapping(
            {
                f"client{i}": {
                    "a": np.full(n, a, np.float32),
                    "b": np.full(n, b, np.float32),
                }
                for i, (a, b, n) in enumerate(columns)
            }
        )

    @checked()
    def optimum(self, *, weighted: bool) -> float:
        r"""The minimum of $\sum_i w_i f_i$: weighted by examples, or uniformly."""
        weights = np.asarray(self.num_examples if weighted else np.ones(len(self)))
        a = weights * np.asarray(self.curvatures)
        return float((a * np.asarray(self.centres)).sum() / a.sum())

    def __len__(self) -> int:
        return len(self.curvatures)


class Linear(eqx.Module):
    """A linear model with two leaves of different shapes."""

    weight: Float[Array, " features"]
    bias: Float[Array, ""]

    def __init__(self, num_features: int = 3):
        num_features = check_count("num_features", num_features)
        self.weight = jnp.linspace(-0.5, 0.5, num_features)
        self.bias = floating(0.1)

    def __call__(self, x: Float[Array, " features"]) -> Float[Array, ""]:
        return self.weight @ x + self.bias


def noisy_loss(
    model: Linear, example: dict[str, Array], key: PRNGKeyArray
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """A squared error with noise from the key, so that a wrong key is a wrong loss."""
    noise = 0.1 * jr.normal(key, (), model.bias.dtype)
    prediction = model.weight @ example["x"].astype(model.bias.dtype) + model.bias
    error = prediction + noise - example["y"].astype(model.bias.dtype)
    return error**2 / 2, {"error": error}


@checked()
def ragged_clients(sizes: tuple[int, ...], *, seed: int = 0) -> FederatedDataset:
    """Clients of the given sizes, each with a linear problem of its own."""
    for size in sizes:
        check_count("sizes", size, least=0)
    rng = np.random.default_rng(check_seed(seed))
    clients = {}
    for i, size in enumerate(sizes):
        x = rng.normal(size=(size, 3)).astype(np.float32)
        y = x @ rng.normal(size=3) + rng.normal()
        clients[f"client{i:03d}"] = {"x": x, "y": y.astype(np.float32)}
    return FederatedDataset.from_mapping(clients)


def law_roles(needs: Sequence[Role]) -> Roles | None:
    """Those of a line whose bias has what an algorithm needs."""
    if not needs:
        return None
    return roles(Linear(), by=lambda path, _: needs[0] if "bias" in path else "shared")
