"""How a Llama lies over devices, so that none holds the whole of it.

Each device has some heads of each attention and some columns of each perceptron, from
the first product to the second, as Megatron-LM splits them (1909.08053): what crosses
between devices is one sum of activations behind each of the two. The compiler finds
these sums by itself, once it is told how the weights lie.
"""

from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from .._mesh import clients_mesh
from ..nn._lora_layer import is_embedding, is_lora


# Which of a weight's numbers a device has: those of some outputs or of some inputs.
_OUTPUTS, _INPUTS = 0, 1


def sharded_llama(model: Any, mesh: Mesh, axis: str) -> Any:
    """The model, laid over the mesh: see `Llama.sharded`."""
    mesh = clients_mesh(mesh)
    if axis not in mesh.axis_names:
        raise ValueError(
            f"The mesh must have the axis {axis!r}, but its axes are "
            f"{mesh.axis_names}. Make one with "
            f"`jax.make_mesh((clients, devices), ('clients', {axis!r}))`."
        )
    count = mesh.shape[axis]
    if model.config.dim % count:
        raise ValueError(
            f"The {count} devices along {axis!r} must divide the model's `dim`, got "
            f"{model.config.dim}."
        )
    paths = jtu.tree_flatten_with_path(model, is_leaf=_is_layer)
    laid = [_laid(_name(path), x, model, mesh, axis) for path, x in paths[0]]
    return jtu.tree_unflatten(paths[1], laid)


def _laid(name: str, x: Any, model: Any, mesh: Mesh, axis: str) -> Any:
    """A layer, or another leaf, on its devices."""

    def put(x: Array | np.ndarray, *spec: str | None) -> Array:
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    if not _is_layer(x):
        return put(x) if _is_array(x) else x
    base = x.base if is_lora(x) else x
    by = _split_by(name, base.weight, model.config, mesh.shape[axis])
    # An embedding is the transpose of a linear layer's weight, from its tokens.
    first = (by == _INPUTS) if is_embedding(base) else (by == _OUTPUTS)
    whole, rows, columns = (None, None), (axis, None), (None, axis)
    weight = put(base.weight, *(rows if first else columns))
    laid = eqx.tree_at(lambda layer: layer.weight, base, weight)
    if not is_lora(x):
        return laid
    a = put(x.a, *(columns if by == _INPUTS else whole))
    b = put(x.b, *(rows if by == _OUTPUTS else whole))
    return eqx.tree_at(lambda layer: (layer.base, layer.a, layer.b), x, (laid, a, b))


def _split_by(name: str, weight: Array, config: Any, count: int) -> int:
    """By its outputs or its inputs, whichever keeps a device's share for itself; the
    width of the model, which can always be split, where that has a remainder."""
    if name in ("query", "key", "value"):
        return _OUTPUTS if config.num_kv_heads % count == 0 else _INPUTS
    if name in ("gate", "up"):
        return _OUTPUTS if config.mlp_size % count == 0 else _INPUTS
    if name in ("out", "down"):
        return _INPUTS if weight.shape[1] % count == 0 else _OUTPUTS
    by_token = config.vocab_size % count == 0
    if name == "embedding":
        return _INPUTS if by_token else _OUTPUTS
    return _OUTPUTS if by_token else _INPUTS


def _is_layer(x: Any) -> bool:
    return is_lora(x) or isinstance(x, eqx.nn.Linear | eqx.nn.Embedding)


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray)


def _name(path: tuple) -> str:
    """The name of a layer in its model: the last of the path."""
    return getattr(path[-1], "name", "")
