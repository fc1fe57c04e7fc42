"""The clients' own models: each on its own client's examples, all in one program."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._metrics import AbstractMetric, masked_sum
from .._tree import difference, tree_row
from .._types import Measure, Model
from .._words import shown
from .over_rows import metrics_of, zero_metrics
from .rows import Rows


class Own(eqx.Module):
    """The models of several clients."""

    stacked: Model
    """The leaves that each client has for itself, along a leading axis of clients."""
    common: Model = None
    """The others, which all have in common."""

    def __getitem__(self, client: Any) -> Model:
        own = tree_row(self.stacked, client)
        return own if self.common is None else eqx.combine(own, self.common)


def stacked(models: Model | Sequence[Model], num_clients: int) -> Model:
    """The models as one whose arrays have a leading axis of clients.

    **Raises:**

    `ValueError` if they are not one for each client, or not alike.
    """
    if isinstance(models, list | tuple):
        return _stack(models, num_clients)
    axes = {x.shape[:1] for x in jtu.tree_leaves(models) if eqx.is_array(x)}
    if axes != {(num_clients,)}:
        raise ValueError(
            f"`models` must be a list of {num_clients} models, one for each client, or "
            f"one model whose arrays all have a leading axis of {num_clients}, as "
            f"`eqx.filter_vmap` makes it, got {shown(models)}."
        )
    return models


def _stack(models: Sequence[Model], num_clients: int) -> Model:
    if len(models) != num_clients:
        raise ValueError(
            f"`models` must be one model for each of the {num_clients} clients, in the "
            f"order of `dataset.client_ids`, got {len(models)}."
        )
    for i, model in enumerate(models[1:], 1):
        apart = difference(f"models[{i}]", model, models[0])
        if apart is not None:
            raise ValueError(
                f"The clients' models must be alike, but {apart}. Look at `models[0]`."
            )
    return jtu.tree_map(_stack_leaves, *models)


def _stack_leaves(*leaves: Any) -> Any:
    first = leaves[0]
    if not eqx.is_array(first):
        return first
    if jnp.issubdtype(first.dtype, jax.dtypes.prng_key):
        return jnp.stack(leaves)
    # On the host: to stack sixty arrays on the device is a program for each shape.
    return jnp.asarray(np.stack(jax.device_get(leaves)))


def own_models(
    metrics: Measure,
    models: Own,
    rows: Rows,
    num_clients: int,
    batch_size: int,
    key: PRNGKeyArray,
) -> dict[str, AbstractMetric]:
    """The metrics of each client. A batch holds examples of one client alone, whose
    own model is taken."""
    num_rows = rows.client.shape[0]
    batch_size = min(batch_size, num_rows)
    zero = zero_metrics(metrics, models[0], rows, num_clients)

    def more(carry: tuple[Array, Any]) -> Array:
        return carry[0] < rows.count

    def body(carry: tuple[Array, Any]) -> tuple[Array, Any]:
        at, total = carry
        client = rows.client[at]
        start = jnp.minimum(at, num_rows - batch_size)
        row = start + jnp.arange(batch_size, dtype=jnp.int32)
        batch, whose = jtu.tree_map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, start, batch_size),
            (rows.examples, rows.client),
        )
        mask = (row >= at) & (row < rows.count) & (whose == client)
        model = models[client]

        def one(example: PyTree, row: Array) -> dict[str, AbstractMetric]:
            own = jr.fold_in(key, rows.first + row.astype(jnp.uint32))
            return metrics_of(metrics, model, example, own)

        part = masked_sum(jax.vmap(one)(batch, row), mask)
        total = jtu.tree_map(lambda x, y: x.at[client].add(y), total, part)
        return at + mask.sum(dtype=jnp.int32), total

    start = jnp.zeros((), jnp.int32)
    return jax.lax.while_loop(more, body, (start, zero))[1]
