"""The entry points: one evaluation."""

from collections.abc import Sequence
from typing import Any, Literal, overload

from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from .._check import checked
from .._types import Measure, Model
from ..data import FederatedDataset
from .clients import ClientMetrics
from .evaluator import Evaluator


@overload
def evaluate(
    model: Model,
    dataset: FederatedDataset,
    metrics: Measure,
    *,
    per_client: Literal[False] = False,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]: ...
@overload
def evaluate(
    model: Model,
    dataset: FederatedDataset,
    metrics: Measure,
    *,
    per_client: Literal[True],
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    mesh: Mesh | None = None,
) -> ClientMetrics: ...
@checked(dataset="Build one with `FederatedDataset.from_arrays` or its siblings.")
def evaluate(
    model: Model,
    dataset: FederatedDataset,
    metrics: Measure,
    *,
    per_client: bool = False,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any] | ClientMetrics:
    """Evaluates a model on a federated dataset, in inference mode.

    **Arguments:**

    - `metrics`: `metrics(model, example, key)` of ONE example: a loss as given to the
        algorithms, or a function that returns a dictionary of numbers and of
        [`equifed.AbstractMetric`][]s.
    - `per_client`: whether to return the metrics of each client.
    - `batch_size`: how many examples are evaluated at a time, on each device. By
        default as many as keep what is computed from them in a CPU's cache; on other
        devices 1,024.
    - `key`: for models that are random even in inference mode.
    - `mesh`: the devices that share the work, as a `jax.sharding.Mesh` with an axis
        `clients`. By default one device; of several processes, each does all of it.

    **Returns:**

    A dictionary of the metrics over all examples: numbers, and NumPy arrays where a
    metric is more than one; or an [`equifed.ClientMetrics`][]. A mean over no example
    is NaN. Where an example's own metric is NaN, a warning names it.

    **Raises:**

    `ValueError` if the metrics cannot be computed on an example of the dataset, if a
    column does not hold numbers, or ids that have no row in a table which the metrics
    read, or for a mesh without an axis `clients`.
    """
    evaluator = Evaluator(dataset, metrics, batch_size=batch_size, mesh=mesh)
    if per_client:
        return evaluator.per_client(model, key=key)
    return evaluator(model, key=key)


@checked(dataset="Build one with `FederatedDataset.from_arrays` or its siblings.")
def evaluate_own(
    models: Model | Sequence[Model],
    dataset: FederatedDataset,
    metrics: Measure,
    *,
    batch_size: int | None = None,
    key: PRNGKeyArray | None = None,
    mesh: Mesh | None = None,
) -> ClientMetrics:
    """Evaluates a model for each client on that client's examples, in inference mode.

    All of them are one program, however many clients there are and whatever their
    sizes.

    **Arguments:** as those of [`equifed.evaluate`][], but for

    - `models`: the models in the order of `dataset.client_ids`: a list (or tuple) of
        models that are alike, or one model whose arrays all have a leading axis of
        clients, as `eqx.filter_vmap` makes it. Every device of the mesh holds them all.
    - `batch_size`: the most that are evaluated at a time; a batch is of one client.

    **Returns:**

    An [`equifed.ClientMetrics`][].

    **Raises:** as [`equifed.evaluate`][], and

    `ValueError` if there is not one model for each client, or they are not alike.

    !!! example

        ```python
        tuned = eqx.filter_vmap(fine_tune)(histories)
        eqf.evaluate_own(tuned, test, loss).quantiles("loss")
        ```
    """
    evaluator = Evaluator(dataset, metrics, batch_size=batch_size, mesh=mesh)
    return evaluator.own(models, key=key)
