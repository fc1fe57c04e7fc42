"""Objectives as the clients of a federation."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from .._check import check_kind, checked
from .._types import Loss
from ..data import FederatedDataset
from ._arrays import is_concrete
from ._base import AbstractObjective


class FederatedProblem(eqx.Module):
    r"""Clients that each have an objective, and the minimum of their mean.

    Training sees what it sees of any clients, a dataset and the loss of one example;
    the model is the vector itself.

    !!! example

        ```python
        problem = eqf.objectives.random_least_squares(10, 5, key=jr.key(0))
        batching = eqf.data.Epochs(1, batch_size=20)
        loader = eqf.data.Loader(problem.dataset(), eqf.data.AllClients(), batching)
        algorithm = eqf.FedAvg(problem.loss, optax.sgd(0.01), batching)
        solution = eqf.train(
            algorithm, jnp.zeros(problem.dim), loader, num_rounds=50, key=jr.key(1)
        )
        error = jnp.linalg.norm(solution.model - problem.optimum())
        ```
    """

    objectives: tuple[AbstractObjective, ...]

    def __init__(self, objectives: Sequence[AbstractObjective]):
        """**Arguments:**

        - `objectives`: One for each client, all of one class, of one dimension and,
            where they have one, with the same `l2`.

        **Raises:**

        `ValueError` if there are none, or they do not fit together; `TypeError` if one
        is no objective.
        """
        check_kind("objectives", objectives, Sequence, "Give a list of objectives.")
        self.objectives = tuple(objectives)

    def __check_init__(self):
        if len(self.objectives) == 0:
            raise ValueError("`objectives` must hold at least one objective, got none.")
        first = self.objectives[0]
        for i, other in enumerate(self.objectives):
            if not isinstance(other, AbstractObjective):
                raise TypeError(
                    "`objectives` must hold objectives, such as "
                    f"`equifed.objectives.Quadratic`, but that of client {i} is a "
                    f"`{type(other).__name__}`."
                )
            if type(other) is not type(first):
                raise ValueError(
                    "The objectives must all be of one class, but that of client 0 is "
                    f"a `{type(first).__name__}` and that of client {i} a "
                    f"`{type(other).__name__}`. `LeastSquares.quadratic` turns least "
                    "squares into quadratics."
                )
            if other.dim != first.dim:
                raise ValueError(
                    "The objectives must all have one dimension, but that of client 0 "
                    f"has {first.dim} and that of client {i} has {other.dim}."
                )
            same = eqx.tree_equal(first.loss, other.loss)
            if is_concrete(same) and not same:
                raise ValueError(
                    "The objectives must all have the loss of one example in common, "
                    f"but that of client 0 has {_show(first.loss)} and that of client "
                    f"{i} has {_show(other.loss)}. Give them the same `l2`."
                )

    @property
    def dim(self) -> int:
        """The dimension of the vector."""
        return self.objectives[0].dim

    @property
    def loss(self) -> Loss:
        """The loss of one example, `loss(model, example, key)`; the model is the
        vector."""
        return self.objectives[0].loss

    @property
    def weights(self) -> Int[np.ndarray, " clients"]:
        """The clients' numbers of examples."""
        return np.array([o.num_examples for o in self.objectives])

    def __len__(self) -> int:
        return len(self.objectives)

    def dataset(self) -> FederatedDataset:
        """Builds the dataset of the clients' examples.

        **Returns:**

        The dataset, with clients called `"client000"` and so on, in the order of the
        objectives.
        """
        clients = {
            f"client{i:03d}": o.examples() for i, o in enumerate(self.objectives)
        }
        return FederatedDataset.from_mapping(clients)

    @checked()
    def objective(self, *, weighted: bool = True) -> AbstractObjective:
        r"""Builds the global objective, $\sum_i w_i f_i \big/ \sum_i w_i$.

        **Arguments:**

        - `weighted`: Whether $w_i$ is the client's number of examples, as in
            [`equifed.WeightedMean`][], or 1, as in [`equifed.UniformMean`][].

        **Returns:**

        An objective of the clients' class. The uniform mean of
        [`equifed.objectives.LeastSquares`][] is an
        [`equifed.objectives.Quadratic`][].
        """
        return type(self.objectives[0]).average(self.objectives, weighted=weighted)

    @checked()
    def optimum(self, *, weighted: bool = True) -> Float[Array, " dim"]:
        """Computes the minimum of the global objective.

        **Arguments:**

        - `weighted`: As in `objective`.

        **Raises:**

        `ValueError` if there is none, or more than one.
        """
        return self.objective(weighted=weighted).optimum()


def _show(loss: Loss) -> str:
    return eqx.tree_pformat(loss, short_arrays=False)
