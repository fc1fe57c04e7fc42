"""Many evaluations on the same dataset."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from .._check import check_count, checked
from .._history import plain
from .._metrics import AbstractMetric, compute_metrics
from .._tree import tree_isfinite
from .._types import Measure, Model
from .._used_up import check_not_used_up
from .._warn import warn
from ..data import FederatedDataset
from ..data._placement import check_numeric, Placement
from ..data._plan import ladder
from .batch_size import choose_batch_size
from .blame import blame
from .clients import ClientMetrics
from .over_rows import one_model, over_rows, traced_metrics
from .own import Own, own_models, stacked
from .rows import piece_size, put_model, put_rows, Rows


class Evaluator:
    """Evaluates many models on one dataset, which is put on the devices once.

    **Arguments:** as those of [`equifed.evaluate`][].
    """

    @checked()
    def __init__(
        self,
        dataset: FederatedDataset,
        metrics: Measure,
        *,
        batch_size: int | None = None,
        mesh: Mesh | None = None,
    ):
        if batch_size is not None:
            batch_size = check_count("batch_size", batch_size)
        check_numeric(dataset.columns)
        self._dataset = dataset
        self._metrics = metrics
        self._batch_size = batch_size
        self._placement = Placement(mesh)
        sizes = np.asarray(dataset.client_sizes)
        self._client = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        self._piece = piece_size(dataset, batch_size or 1, self._placement)
        self._kept: Rows | None = None
        self._explained = False
        self._first_row = 0
        self._checked: Any = None
        self._names: list[str] = []

    @checked()
    def __call__(
        self, model: Model, *, key: PRNGKeyArray | None = None
    ) -> dict[str, Any]:
        """The metrics over all examples."""
        total = self._total(model, None, key)
        return {name: plain(x) for name, x in _compute(total).items()}

    @checked()
    def per_client(
        self, model: Model, *, key: PRNGKeyArray | None = None
    ) -> ClientMetrics:
        """The metrics of each client."""
        # Of few sizes as well.
        total = self._total(model, ladder(self._dataset.num_clients), key)
        return self._of_each(total)

    @checked()
    def own(
        self, models: Model | Sequence[Model], *, key: PRNGKeyArray | None = None
    ) -> ClientMetrics:
        """The metrics of each client's own model: see [`equifed.evaluate_own`][]."""
        check_not_used_up("models", models)
        models = stacked(models, self._dataset.num_clients)
        return self._of_each(self._own(Own(eqx.nn.inference_mode(models)), key))

    def _own(self, models: Own, key: PRNGKeyArray | None) -> dict[str, AbstractMetric]:
        """The sums of each client's own model, which is in inference mode."""
        dataset, one = self._dataset, models[0]
        self._check(one)
        most = 2 ** (int(np.median(dataset.client_sizes)) - 1).bit_length()
        batch_size = min(self._batch_size_for(one), max(most, 1))
        total = self._over_rows(
            own_models, models, dataset.num_clients, batch_size, key
        )
        if not self._explained and _has_nan(total):
            self._explained = True
            client = _first_nan(total)
            self._explain(models[client], [client])
        return total

    def _on(self, dataset: FederatedDataset, model: Model) -> dict[str, Any]:
        """The metrics over the examples of some of the clients, as a dataset."""
        size = self._batch_size_for(eqx.nn.inference_mode(model))
        other = self._like(dataset, size)
        found = other(model)
        self._explained = other._explained
        return found

    def _both(self, model: Model) -> tuple[dict[str, Any], ClientMetrics]:
        """The metrics over all examples, and those of each client, by one pass."""
        total = self._total(model, ladder(self._dataset.num_clients), None)
        return self._told(total)

    def _told(
        self, total: dict[str, AbstractMetric]
    ) -> tuple[dict[str, Any], ClientMetrics]:
        """What the clients' sums say together, and of each."""
        found = {name: plain(x) for name, x in _compute_all(total).items()}
        return found, self._of_each(total)

    def _like(
        self, dataset: FederatedDataset, batch_size: int | None, first_row: int = 0
    ) -> "Evaluator":
        """One on some of the clients: what was found out of all holds of them. Their
        rows count from `first_row`."""
        mesh = self._placement.mesh
        other = Evaluator(dataset, self._metrics, batch_size=batch_size, mesh=mesh)
        # All clients' examples were looked at, and one NaN is explained.
        other._checked, other._names = self._checked, self._names
        other._explained, other._first_row = self._explained, first_row
        return other

    def _of_each(self, total: dict[str, AbstractMetric]) -> ClientMetrics:
        sizes = np.asarray(self._dataset.client_sizes)
        values = {}
        for name, value in jax.device_get(jax.vmap(_compute)(total)).items():
            value = np.array(value[: len(sizes)])
            if np.issubdtype(value.dtype, np.floating):
                value[sizes == 0] = np.nan
            values[name] = value
        return ClientMetrics(values, sizes, list(self._dataset.client_ids))

    def _total(
        self, model: Model, num_clients: int | None, key: PRNGKeyArray | None
    ) -> dict[str, AbstractMetric]:
        check_not_used_up("model", model)
        model = eqx.nn.inference_mode(model)
        self._check(model)
        batch_size = self._batch_size_for(model)
        total = self._over_rows(one_model, model, num_clients, batch_size, key)
        if not self._explained and _has_nan(total):
            self._explained = True
            self._explain(model, range(self._dataset.num_clients))
        return total

    def _batch_size_for(self, model: Model) -> int:
        if self._batch_size is None:
            self._batch_size = choose_batch_size(
                self._metrics, model, self._dataset.example
            )
        return self._batch_size

    def _over_rows(
        self,
        device: Callable[..., dict[str, AbstractMetric]],
        model: Model,
        num_clients: int | None,
        batch_size: int,
        key: PRNGKeyArray | None,
    ) -> dict[str, AbstractMetric]:
        """The sums over all rows, piece by piece."""
        mesh, num_examples = self._placement.mesh, self._dataset.num_examples
        model, key = put_model(model, mesh), jr.key(0) if key is None else key
        total = None
        for start in range(0, num_examples, self._piece):
            rows = self._load(start, min(start + self._piece, num_examples))
            part = over_rows(
                *(device, self._metrics, model, rows),
                *(num_clients, batch_size, key, mesh),
            )
            total = part if total is None else jtu.tree_map(jnp.add, total, part)
        assert total is not None
        return total

    def _check(self, model: Model, where: str = "") -> list[str]:
        """Tries the metrics on a model of a structure that is new here, and refuses
        examples that ask for a row that is not there.

        **Arguments:**

        - `where`: whose examples they are, for the error; the first client's if not
            given.

        **Returns:**

        The names of the metrics.
        """
        model = eqx.nn.inference_mode(model)
        leaves, treedef = jtu.tree_flatten(model)
        shapes = [(x.shape, x.dtype) for x in leaves if eqx.is_array(x)]
        if self._checked != (treedef, shapes):
            dataset = self._dataset
            where = where or f"client {dataset.client_ids[0]!r}"
            found, lookups = traced_metrics(
                self._metrics, model, dataset.example, where
            )
            lookups.check_dataset(dataset, model)
            self._names = list(found)
            self._checked = (treedef, shapes)
        return self._names

    def _explain(self, model: Model, clients: Sequence[int]) -> None:
        if not tree_isfinite(model):
            where = "The model is not finite."
        else:
            dataset = self._dataset
            ids = dataset.client_ids
            examples = ((ids[i], dataset.client(i)) for i in clients)
            where = blame(examples, self._metrics, put_model(model, None))
        warn(f"A metric of the evaluation is NaN. {where}".rstrip())

    def _load(self, start: int, stop: int) -> Rows:
        """Puts rows on the devices; keeps them there if they are all of the rows."""
        if self._kept is not None:
            return self._kept
        rows = put_rows(self._dataset, self._client, start, stop, self._placement)
        if self._first_row:
            first = rows.first + jnp.uint32(self._first_row)
            rows = eqx.tree_at(lambda r: r.first, rows, first)
        if stop - start == self._dataset.num_examples:
            self._kept = rows
        return rows


_compute = eqx.filter_jit(compute_metrics)


@eqx.filter_jit
def _compute_all(total: dict[str, AbstractMetric]) -> dict[str, Array]:
    """What the clients' sums say together."""
    return compute_metrics(jtu.tree_map(lambda x: x.sum(0), total))


def _has_nan(total: dict[str, AbstractMetric]) -> bool:
    """Whether some example's metric is NaN: a mean over no example is as well, but its
    sums are not."""
    return any(np.isnan(x).any() for x in _sums(total))


def _first_nan(total: dict[str, AbstractMetric]) -> int:
    """The first client some of whose sums are NaN."""
    bad = [np.isnan(x).reshape(len(x), -1).any(1) for x in _sums(total)]
    return int(np.any(bad, 0).argmax())


def _sums(total: dict[str, AbstractMetric]) -> list[np.ndarray]:
    leaves = [x for x in jtu.tree_leaves(total) if eqx.is_inexact_array(x)]
    return jax.device_get(leaves)
