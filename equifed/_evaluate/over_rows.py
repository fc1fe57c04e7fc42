"""The compiled pass over the rows."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PRNGKeyArray, PyTree

from .._client.loss import check_loss, example_metrics
from .._compiled import compiled, FlatTree
from .._lookups import Lookups, traced
from .._mesh import AXIS
from .._metrics import AbstractMetric, as_metrics
from .._tree import rowwise, tree_shapes, tree_zeros_like
from .._types import Measure, Model
from .rows import Rows


def metrics_of(
    metrics: Measure, model: Model, example: PyTree, key: PRNGKeyArray
) -> dict[str, AbstractMetric]:
    out: Any = metrics(model, example, key)
    if isinstance(out, Mapping):
        return as_metrics(None, dict(out))
    return example_metrics(lambda *_: out, model, example, key)[1]


def over_rows(
    device: Callable[..., dict[str, AbstractMetric]],
    metrics: Measure,
    model: Model,
    rows: Rows,
    num_clients: int | None,
    batch_size: int,
    key: PRNGKeyArray,
    mesh: Mesh | None,
) -> dict[str, AbstractMetric]:
    """The metrics of rows, on all devices.

    **Arguments:**

    - `device`: what each device does with its share, a function of a module.
    """
    fixed = FlatTree((device, metrics, model, num_clients, batch_size, key, mesh))
    return compiled(_over_rows, fixed)(fixed.arrays, rows)


def _over_rows(fixed: tuple[Any, ...], rows: Rows) -> dict[str, AbstractMetric]:
    run, metrics, model, num_clients, batch_size, key, mesh = fixed
    arrays, static = eqx.partition((model, key), eqx.is_array)

    def device(arrays: PyTree, rows: Rows) -> dict[str, AbstractMetric]:
        model, key = eqx.combine(arrays, static)
        rows = jtu.tree_map(lambda x: x[0], rows)
        total = run(metrics, model, rows, num_clients, batch_size, key)
        return total if mesh is None else jax.lax.psum(total, AXIS)

    if mesh is None:
        return device(arrays, rows)
    whole, split = PartitionSpec(), PartitionSpec(AXIS)
    mapped = jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(whole, split),
        out_specs=whole,
        axis_names={AXIS},  # The model may be sharded over others.
        check_vma=False,
    )
    return mapped(arrays, rows)


def zero_metrics(
    metrics: Measure, model: Model, rows: Rows, num_clients: int | None
) -> dict[str, AbstractMetric]:
    """The metrics of no example: of all clients together, or of each."""
    shape = jtu.tree_map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows.examples
    )
    axes = () if num_clients is None else (num_clients,)
    zero = jtu.tree_map(
        lambda x: jax.ShapeDtypeStruct((*axes, *x.shape), x.dtype),
        check_evaluation(metrics, model, shape),
    )
    return tree_zeros_like(zero)


def one_model(
    metrics: Measure,
    model: Model,
    rows: Rows,
    num_clients: int | None,
    batch_size: int,
    key: PRNGKeyArray,
) -> dict[str, AbstractMetric]:
    """The metrics of one model, of all clients together or of each."""
    num_rows = rows.client.shape[0]
    batch_size = min(batch_size, num_rows)
    zero = zero_metrics(metrics, model, rows, num_clients)

    def body(i, total):
        # The last batch begins early enough to be whole, and skips what it has seen.
        last = jnp.maximum(rows.count - batch_size, 0)
        start = jnp.minimum(i * batch_size, last)
        row = start + jnp.arange(batch_size, dtype=jnp.int32)
        mask = (row >= i * batch_size) & (row < rows.count)
        batch, client = jtu.tree_map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, start, batch_size),
            (rows.examples, rows.client),
        )
        # A key is its row's: it depends on no batch and no device.
        keys = jax.vmap(functools.partial(jr.fold_in, key))(
            rows.first + row.astype(jnp.uint32)
        )
        values = jax.vmap(lambda e, k: metrics_of(metrics, model, e, k))(batch, keys)

        def add(total, x):
            x = jnp.where(rowwise(mask, x), x, jnp.zeros_like(x))
            return total + x.sum(0) if num_clients is None else total.at[client].add(x)

        return jtu.tree_map(add, total, values)

    # The rows that fill up a share come last: their batches are not run.
    num_batches = (rows.count + batch_size - 1) // batch_size
    return jax.lax.fori_loop(0, num_batches, body, zero)


def check_evaluation(
    metrics: Measure, model: Model, example: PyTree, where: str = "the dataset"
) -> dict[str, AbstractMetric]:
    """The shapes of an example's metrics, or the loss's own kind of error."""
    return traced_metrics(metrics, model, example, where)[0]


def traced_metrics(
    metrics: Measure, model: Model, example: PyTree, where: str
) -> tuple[dict[str, AbstractMetric], Lookups]:
    """As `check_evaluation`, and what the metrics read by numbers of the example."""

    def value(model, example, key):
        out: Any = metrics(model, example, key)
        return (jnp.zeros(()), {}) if isinstance(out, Mapping) else out

    def given(model: Model) -> Any:
        return metrics, model, jr.key(0)

    def measured(given: Any, example: PyTree) -> dict[str, AbstractMetric]:
        metrics, model, key = given
        return metrics_of(metrics, model, example, key)

    check_loss(value, model, example, where, what="metrics")
    shapes, program = traced(measured, given(tree_shapes(model)), example)
    return shapes, Lookups(program, given)
