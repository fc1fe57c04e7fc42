"""What a client makes of its samples: moments of its posterior, ready to be sent."""

import abc
import functools
from collections.abc import Callable
from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._check import as_number, checked
from .._linalg import as_rows
from .._overrides import inherit_types
from .._tree import floating, tree_wide
from .._types import Params
from .._wire import AbstractPayload
from .base import Stacked
from .delta import covariance, dense, dynamic, woodbury


METHODS = {"woodbury": woodbury, "dynamic": dynamic, "dense": dense}


class AbstractMomentEstimator(eqx.Module):
    """Turns samples of a client's posterior into the payload of its message."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def __call__(self, samples: Stacked) -> PyTree[Array]:
        """The payload.

        **Arguments:**

        - `samples`: displacements from the server's model, each leaf with a leading
            axis over the samples.
        """


class Shrinkage(AbstractMomentEstimator):
    r"""FedPA's message, $\hat\Sigma^{-1} m$: the displacement to the posterior's mean,
    corrected by the inverse of its covariance.

    $m$ is the mean of the samples $s_1, \dots, s_l$, and their covariance is estimated
    with shrinkage towards the identity,

    $$\hat\Sigma = \rho_l I + (1 - \rho_l) S, \qquad
    \rho_l = \frac{1}{1 + (l - 1) \rho}.$$

    At $\rho = 0$, or with one sample, it is $m$: FedAvg. As $\rho$ grows, $\hat\Sigma$
    tends to the sample covariance, and the message grows too: the server's learning
    rate must come down.

    **Arguments:**

    - `rho`: $\rho \ge 0$, or a function that computes it from the samples.
    - `method`: how to solve. `"woodbury"` and `"dynamic"` (the paper's dynamic
        programming) take $O(l^2 d)$ time and $O(l d)$ memory; `"dense"` forms the
        $d \times d$ matrix. All three agree but for rounding.
    - `joint`: whether inner products run over the whole PyTree; otherwise each leaf has
        a covariance of its own, as if leaves were independent.

    ??? cite "Reference"

        [Federated Learning via Posterior Averaging: A New Perspective and Practical
        Algorithms](https://arxiv.org/abs/2010.05273)
    """

    rho: Float[Array, ""] | Callable[[Stacked], Float[Array, ""]]
    method: Literal["woodbury", "dynamic", "dense"]
    joint: bool

    @checked()
    def __init__(
        self,
        rho: ArrayLike | Callable[[Stacked], Float[Array, ""]],
        *,
        method: Literal["woodbury", "dynamic", "dense"] = "woodbury",
        joint: bool = True,
    ):
        # The class of a callable, given in its place, is a mistake.
        if isinstance(rho, type) or not callable(rho):
            rho = as_number("rho", rho, least=0)  # pyright: ignore[reportArgumentType]
        self.rho = rho
        self.method = method
        self.joint = joint

    def __call__(self, samples: Stacked) -> Params:
        _check(samples)
        samples = tree_wide(samples)
        rho = floating(self.rho(samples)) if callable(self.rho) else self.rho
        # Sums over all leaves are kept in the widest of their dtypes.
        dtypes = [x.dtype for x in jtu.tree_leaves(samples)]
        rho = rho.astype(functools.reduce(np.promote_types, dtypes))
        solve = METHODS[self.method]
        if self.joint:
            return solve(samples, rho)
        return jtu.tree_map(lambda x: solve(x, rho), samples)


class Gaussian(AbstractPayload):
    """A Gaussian over the params, relative to the server's model."""

    additive: ClassVar[bool] = False
    mean: Params
    covariance: PyTree[Array]
    """Variances, in a tree like the mean; or one matrix over all the numbers of the
    mean, in the order of `jax.flatten_util.ravel_pytree`."""


class GaussianMoments(AbstractMomentEstimator):
    r"""Sends the mean and the covariance themselves, for
    [`equifed.posterior.PosteriorProduct`][].

    **Arguments:**

    - `rho`: $\rho > 0$ of the shrinkage, as in [`equifed.posterior.Shrinkage`][].
    - `covariance`: `"diagonal"` for variances alone, or `"dense"` for all of the
        $d \times d$ matrix, which the server then keeps once for each client.
    """

    rho: Float[Array, ""]
    covariance: Literal["diagonal", "dense"]

    @checked()
    def __init__(
        self,
        rho: ArrayLike,
        *,
        covariance: Literal["diagonal", "dense"] = "diagonal",
    ):
        self.rho = as_number("rho", rho, least=0, strict=True)
        self.covariance = covariance

    def __call__(self, samples: Stacked) -> Gaussian:
        _check(samples)
        samples = tree_wide(samples)
        mean = jtu.tree_map(lambda x: x.mean(0), samples)
        if self.covariance == "dense":
            return Gaussian(mean, covariance(as_rows(samples)[0], self.rho))

        def variance(x: Array, m: Array) -> Array:
            rho = self.rho.astype(x.dtype)
            weight = 1 / (1 + (x.shape[0] - 1) * rho)
            return weight * (1 + rho * jnp.square(x - m[None]).sum(0))

        return Gaussian(mean, jtu.tree_map(variance, samples, mean))


def _check(samples: Stacked) -> None:
    counts = {x.shape[0] if x.ndim else None for x in jtu.tree_leaves(samples)}
    if len(counts) != 1 or counts & {0, None}:
        raise ValueError(
            "The samples need a leading axis of the same length, at least 1, in every "
            f"leaf; got {sorted(map(str, counts))}."
        )
