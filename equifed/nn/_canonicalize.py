"""Equinox's own layers, computed by ours.

A converted layer is a subclass of the one that it replaces and has its fields, so that
the model's parameters, its checkpoints and its `__call__` stay what they were. It takes
and returns images with the channels first; between two such layers the compiler drops
the transpositions, since a transposed image and another memory layout are the same.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._check import checked
from .._words import message
from ._conv import conv2d, spell_padding
from ._lowering import Lowering
from ._pool import split_windows


Model = TypeVar("Model", bound=PyTree)


@checked()
def canonicalize(model: Model, *, lowering: Lowering = "auto") -> Model:
    """Makes the convolutions and poolings of an Equinox model fast in a compiled loop.

    Every `equinox.nn.Conv2d` is replaced by a layer that computes the same function of
    the same parameters, channels first as before, the way that [`equifed.nn.Conv2d`][]
    does; likewise `equinox.nn.MaxPool2d` and `equinox.nn.AvgPool2d`. Only rounding
    differs, in values and in gradients. The model's leaves stay what they are, in the
    same order, so a checkpoint of the one model is a checkpoint of the other; and a
    converted layer is still an `equinox.nn.Conv2d`.

    !!! example

        ```python
        model = eqf.nn.canonicalize(MyCNN(key))  # written with `equinox.nn`
        ```

    Left as they are: poolings whose windows overlap, are padded, or with `use_ceil`
    (note that the stride of `equinox.nn.MaxPool2d(2)` is 1: its windows overlap;
    `equinox.nn.MaxPool2d(2, 2)` is converted); convolutions in one or three dimensions
    and transposed ones; your own subclasses of Equinox's layers; and layers that are
    not in the PyTree, but in a static field or inside a function.

    **Arguments:**

    - `model`: Any PyTree.
    - `lowering`: As in [`equifed.nn.Conv2d`][].

    **Returns:**

    The model with its layers replaced.

    **Raises:**

    `ValueError` if there is no such `lowering`.
    """
    if inspect.isclass(model) or not jtu.tree_leaves(model):
        raise TypeError(message("model", "a model, with its layers", model))

    def replace(layer: Any) -> Any:
        if _is_conv2d(layer):
            return CanonicalConv2d(layer, lowering)
        if _is_tiling(layer):
            return _pools[type(layer)](layer)
        return layer

    return jtu.tree_map(
        replace, model, is_leaf=lambda x: _is_conv2d(x) or _is_tiling(x)
    )


def _is_conv2d(x: Any) -> bool:
    # The very classes: a subclass may compute something else. But one converted before
    # may be given another lowering.
    kinds = (eqx.nn.Conv, eqx.nn.Conv2d, CanonicalConv2d)
    return type(x) in kinds and x.num_spatial_dims == 2


def _is_tiling(x: Any) -> bool:
    """Whether `x` is a pooling whose windows lie side by side."""
    return (
        type(x) in _pools
        and x.kernel_size == x.stride
        and not any(map(any, x.padding))
        and not x.use_ceil
    )


class CanonicalConv2d(eqx.nn.Conv2d):
    """`equinox.nn.Conv2d`, computed by `conv2d`."""

    lowering: Lowering = eqx.field(static=True)

    def __init__(self, conv: eqx.nn.Conv, lowering: Lowering):
        _copy_fields(conv, self)
        self.lowering = lowering

    @jax.named_scope("equifed.nn.CanonicalConv2d")
    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array:
        if x.ndim != 3:
            # Its error is the one that the model's author knows.
            return eqx.nn.Conv2d.__call__(self, x, key=key)
        padding = spell_padding(
            self.padding, x.shape[1:], self.kernel_size, self.stride, self.dilation
        )
        if self.padding_mode != "ZEROS":
            x = jnp.pad(x, ((0, 0), *padding), _pad_modes[self.padding_mode])
            padding = ((0, 0), (0, 0))
        out = conv2d(
            jnp.transpose(x, (1, 2, 0))[None],
            jnp.transpose(self.weight, (2, 3, 1, 0)),
            stride=self.stride,
            padding=padding,
            kernel_dilation=self.dilation,
            groups=self.groups,
            lowering=self.lowering,
        )[0]
        if self.bias is not None:
            out = out + self.bias[None, None, :, 0, 0]
        return jnp.transpose(out, (2, 0, 1))


_pad_modes = {"REFLECT": "reflect", "REPLICATE": "edge", "CIRCULAR": "wrap"}


class CanonicalMaxPool2d(eqx.nn.MaxPool2d):
    """`equinox.nn.MaxPool2d`, where the windows lie side by side."""

    def __init__(self, pool: eqx.nn.MaxPool2d):
        _copy_fields(pool, self)

    @jax.named_scope("equifed.nn.CanonicalMaxPool2d")
    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array:
        if not _has_window(self, x):
            return eqx.nn.MaxPool2d.__call__(self, x, key=key)
        return _pool(lambda x: _first_max(_first_max(x, 3), 1), self, x)


class CanonicalAvgPool2d(eqx.nn.AvgPool2d):
    """`equinox.nn.AvgPool2d`, where the windows lie side by side."""

    def __init__(self, pool: eqx.nn.AvgPool2d):
        _copy_fields(pool, self)

    @jax.named_scope("equifed.nn.CanonicalAvgPool2d")
    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array:
        if not _has_window(self, x):
            return eqx.nn.AvgPool2d.__call__(self, x, key=key)
        return _pool(lambda x: jnp.mean(x, (1, 3)), self, x)


_pools = {
    eqx.nn.MaxPool2d: CanonicalMaxPool2d,
    eqx.nn.AvgPool2d: CanonicalAvgPool2d,
}


def _copy_fields(old: eqx.Module, new: eqx.Module) -> None:
    # Those of Equinox's layer: a converted one has one more.
    for field in dataclasses.fields(old):
        setattr(new, field.name, getattr(old, field.name))


def _has_window(pool: eqx.nn.Pool, x: Array) -> bool:
    height, width = pool.kernel_size
    return x.ndim == 3 and x.shape[1] >= height and x.shape[2] >= width


def _pool(reduce: Callable[[Array], Array], pool: eqx.nn.Pool, x: Array) -> Array:
    windows = split_windows(jnp.transpose(x, (1, 2, 0)), pool.kernel_size)
    return jnp.transpose(reduce(windows), (2, 0, 1))


def _first_max(x: Array, axis: int) -> Array:
    """The maximum along an axis, whose gradient goes to the first of those that tie.

    So it does in Equinox's pooling, while `jnp.max` divides it among them.
    """
    best, *rest = (
        jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])
    )
    for y in rest:
        # A NaN is kept: a model that diverged must be seen to.
        best = jnp.where((best >= y) | jnp.isnan(best), best, y)
    return best
