"""How good a model is: over all examples, and for each client.

Both are one pass in large batches that take no notice of whose examples they hold.
The statistics of each example are added to its client's row, so that a thousand
clients cost what one does.
"""

from collections.abc import Mapping
from typing import Any, Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from beartype import beartype
from jaxtyping import Array, Int, jaxtyped, PRNGKeyArray, PyTree

from ._client.loss import check_loss, example_metrics
from ._metrics import AbstractMetric, as_metrics, compute_metrics
from ._tree import tree_zeros_like
from ._types import Measure, Model
from .data import FederatedDataset


# Examples go to the device in pieces of at most this many bytes.
_PIECE = 2**28


class ClientMetrics(eqx.Module):
    """Metrics of each client of a dataset.

    `values[name]` has one entry for each client, in the order of `client_ids`; it is
    NaN for a client without examples.
    """

    values: dict[str, np.ndarray]
    num_examples: np.ndarray
    client_ids: list[str]

    def quantiles(
        self, name: str, q: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9)
    ) -> dict[float, float]:
        """Quantiles of a metric over the clients, each counted once."""
        return {p: float(np.nanquantile(self.values[name], p)) for p in q}

    def mean(self, name: str) -> float:
        """The mean of a metric over the clients, each counted once."""
        return float(np.nanmean(self.values[name]))

    def __getitem__(self, client_id: str) -> dict[str, Any]:
        if client_id not in self.client_ids:
            raise ValueError(f"There is no client {client_id!r} among these.")
        i = self.client_ids.index(client_id)
        return {name: value[i].tolist() for name, value in self.values.items()}


@overload
def evaluate(
    model: Model,
    dataset: FederatedDataset,
    metrics: Measure,
    *,
    per_client: Literal[False] = False,
    batch_size: int = 256,
    key: PRNGKeyArray | None = None,
) -> dict[str, Any]: ...
@overload
def evaluate(
    model: Model,
    dataset: FederatedDataset,
    metrics: Measure,
    *,
    per_client: Literal[True],
    batch_size: int = 256,
    key: PRNGKeyArray | None = None,
) -> ClientMetrics: ...
@jaxtyped(typechecker=beartype)
def evaluate(
    model: Model,
    dataset: FederatedDataset,
    metrics: Measure,
    *,
    per_client: bool = False,
    batch_size: int = 256,
    key: PRNGKeyArray | None = None,
) -> dict[str, Any] | ClientMetrics:
    """Evaluates a model on a federated dataset, in inference mode.

    **Arguments:**

    - `metrics`: `metrics(model, example, key)` of ONE example: a loss as given to the
        algorithms, or a function that returns a dictionary of numbers and of
        [`equifed.AbstractMetric`][]s.
    - `per_client`: whether to return the metrics of each client.
    - `batch_size`: how many examples are evaluated at a time.
    - `key`: for models that are random even in inference mode.

    **Returns:**

    A dictionary of the metrics over all examples; or an [`equifed.ClientMetrics`][].

    **Raises:**

    `ValueError` if the metrics cannot be computed on an example of the dataset.
    """
    evaluator = Evaluator(dataset, metrics, batch_size=batch_size)
    if per_client:
        return evaluator.per_client(model, key=key)
    return evaluator(model, key=key)


class Evaluator:
    """Evaluates many models on one dataset, which is put on the device once.

    **Arguments:** as those of [`equifed.evaluate`][].
    """

    def __init__(
        self, dataset: FederatedDataset, metrics: Measure, *, batch_size: int = 256
    ):
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        self._dataset = dataset
        self._metrics = metrics
        self._batch_size = batch_size
        sizes = np.asarray(dataset.client_sizes)
        self._client = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        num_bytes = sum(
            int(np.prod(column.shape)) * np.dtype(column.dtype).itemsize
            for column in dataset.columns.values()
        )
        row = max(1, num_bytes // max(1, dataset.num_examples))
        self._piece = max(batch_size, _PIECE // row)
        self._kept: tuple[Any, Any] | None = None

    def __call__(
        self, model: Model, *, key: PRNGKeyArray | None = None
    ) -> dict[str, Any]:
        """The metrics over all examples."""
        total = self._total(model, None, key)
        return {name: x.tolist() for name, x in _compute(total).items()}

    def per_client(
        self, model: Model, *, key: PRNGKeyArray | None = None
    ) -> ClientMetrics:
        """The metrics of each client."""
        total = self._total(model, self._dataset.num_clients, key)
        sizes = np.asarray(self._dataset.client_sizes)
        values = {}
        for name, value in jax.device_get(jax.vmap(_compute)(total)).items():
            value = np.array(value)
            if np.issubdtype(value.dtype, np.floating):
                value[sizes == 0] = np.nan
            values[name] = value
        return ClientMetrics(values, sizes, list(self._dataset.client_ids))

    def _total(
        self, model: Model, num_clients: int | None, key: PRNGKeyArray | None
    ) -> dict[str, AbstractMetric]:
        key = jr.key(0) if key is None else key
        model = eqx.nn.inference_mode(model)
        total = None
        num_examples = self._dataset.num_examples
        for start in range(0, max(num_examples, 1), self._piece):
            piece = self._load(start, min(start + self._piece, num_examples))
            part = _fold(
                self._metrics,
                model,
                *piece,
                num_clients,
                self._batch_size,
                jr.fold_in(key, start),
            )
            total = part if total is None else jtu.tree_map(jnp.add, total, part)
        assert total is not None
        return total

    def _load(self, start: int, stop: int) -> tuple[PyTree, Array]:
        """Puts rows on the device; keeps them there if they are all of the rows."""
        if self._kept is not None:
            return self._kept
        columns = {
            name: jnp.asarray(np.asarray(column[start:stop]))
            for name, column in self._dataset.columns.items()
        }
        piece = columns, jnp.asarray(self._client[start:stop])
        if stop - start == self._dataset.num_examples:
            self._kept = piece
        return piece


def _metrics_of(
    metrics: Measure, model: Model, example: PyTree, key: PRNGKeyArray
) -> dict[str, AbstractMetric]:
    out: Any = metrics(model, example, key)
    if isinstance(out, Mapping):
        return as_metrics(None, dict(out))
    return example_metrics(lambda *_: out, model, example, key)[1]


@eqx.filter_jit
def _fold(
    metrics: Measure,
    model: Model,
    examples: PyTree,
    client: Int[Array, " rows"],
    num_clients: int | None,
    batch_size: int,
    key: PRNGKeyArray,
) -> dict[str, AbstractMetric]:
    num_rows = client.shape[0]
    shape = jtu.tree_map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), examples)
    checked = check_evaluation(metrics, model, shape)
    axes = () if num_clients is None else (num_clients,)
    zero = jtu.tree_map(
        lambda x: jax.ShapeDtypeStruct((*axes, *x.shape), x.dtype), checked
    )

    def body(i, total):
        place = i * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
        mask = place < num_rows
        row = jnp.minimum(place, num_rows - 1)
        batch = jtu.tree_map(lambda x: x[row], examples)
        keys = jr.split(jr.fold_in(key, i), batch_size)
        values = jax.vmap(lambda e, k: _metrics_of(metrics, model, e, k))(batch, keys)

        def add(total, x):
            keep = mask.reshape(mask.shape + (1,) * (x.ndim - 1))
            x = jnp.where(keep, x, jnp.zeros_like(x))
            if num_clients is None:
                return total + x.sum(0)
            return total.at[client[row]].add(x)

        return jtu.tree_map(add, total, values)

    num_batches = -(-num_rows // batch_size)
    return jax.lax.fori_loop(0, num_batches, body, tree_zeros_like(zero))


def check_evaluation(
    metrics: Measure, model: Model, example: PyTree, where: str = "the dataset"
) -> dict[str, AbstractMetric]:
    """The shapes of an example's metrics, or the loss's own kind of error."""

    def value(model, example, key):
        out: Any = metrics(model, example, key)
        return (jnp.zeros(()), {}) if isinstance(out, Mapping) else out

    check_loss(value, model, example, where)
    return eqx.filter_eval_shape(
        lambda m, e: _metrics_of(metrics, m, e, jr.key(0)), model, example
    )


_compute = eqx.filter_jit(compute_metrics)
