"""What an objective is: a function of a vector whose minimum can be computed.

An objective is at the same time the data of a client. Its value is the mean, over the
rows that `examples` returns, of the loss of one example, so an algorithm that only
sees rows and that loss minimises the objective itself, and its answer can be held
against `optimum`.
"""

import abc
from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Shaped

from .._overrides import inherit_types
from .._types import Loss


class AbstractObjective(eqx.Module):
    r"""A deterministic function $f: \mathbb{R}^d \to \mathbb{R}$ with a known minimum.

    It is the mean of the loss of one example over the examples of a client,
    $f(x) = \frac1n \sum_j \ell(x, e_j)$. Its gradient is `jax.grad(objective)`.
    """

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """The dimension $d$."""

    @property
    @abc.abstractmethod
    def num_examples(self) -> int:
        """The number of examples $n$."""

    @property
    @abc.abstractmethod
    def loss(self) -> Loss:
        """The loss of one example, `loss(model, example, key)`, where the model is the
        vector $x$ itself."""

    @abc.abstractmethod
    def __call__(self, x: ArrayLike | Sequence) -> Float[Array, ""]:
        """Computes the value at a vector.

        **Arguments:**

        - `x`: The vector, of $d$ numbers; integers are turned into floating-point
            numbers.

        **Raises:**

        `ValueError` if it has another shape.
        """

    @abc.abstractmethod
    def optimum(self) -> Float[Array, " dim"]:
        """Computes the vector at which the value is smallest.

        **Raises:**

        `ValueError` if there is none, or more than one. Inside a compiled function,
        where nothing can be raised, the vector is NaN instead.
        """

    @abc.abstractmethod
    def examples(self) -> dict[str, Shaped[np.ndarray, "examples ..."]]:
        """Copies the examples of the client that has this objective to the host.

        **Returns:**

        `{column: array}`, as [`equifed.data.FederatedDataset`][] takes them.
        """

    @classmethod
    @abc.abstractmethod
    def average(
        cls, objectives: Sequence["AbstractObjective"], *, weighted: bool
    ) -> "AbstractObjective":
        """Builds the mean of objectives of this kind that have the same loss.

        **Arguments:**

        - `objectives`: At least one.
        - `weighted`: Whether they count by their numbers of examples, or all alike.
        """
