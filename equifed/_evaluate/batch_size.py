"""How many examples to evaluate at a time.

On a CPU the best number differs by a factor of a hundred between models: large enough
that a batch's matrix products are not thin, small enough that what one layer writes is
still in the cache when the next one reads it. So it is found from the sizes of what is
computed from one example, without computing anything.
"""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Jaxpr, jaxpr_as_fun, jaxprs_in_params

from .._tree import tree_shapes
from .._types import Example, Measure, Model
from .over_rows import metrics_of


# Of these bytes a batch's largest array may take up. Measured with dense, convolutional
# and recurrent models; half or twice as much makes little difference.
_CACHE = 2**24
_LEAST, _MOST = 16, 1024


def choose_batch_size(metrics: Measure, model: Model, example: Example) -> int:
    """A power of two, for the default device."""
    if jax.default_backend() != "cpu":
        return _MOST
    # What grows with the batch: not the weights, nor anything made of them alone.
    sizes_of = _batch_sizes(metrics, model, example)
    two, three = sizes_of(2), sizes_of(3)
    largest = max((y - x for x, y in zip(two, three, strict=True)), default=1)
    fitting = max(_CACHE // max(largest, 1), 1)
    return min(max(2 ** (fitting.bit_length() - 1), _LEAST), _MOST)


def _batch_sizes(
    metrics: Measure, model: Model, example: Example
) -> Callable[[int], list[int]]:
    """The bytes of every array that is computed for so many examples. The metrics are
    traced once, for one of them."""

    def one(model: Model, example: Example) -> Any:
        return metrics_of(metrics, model, example, jr.key(0))

    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), example)
    closed, _, _ = eqx.filter_make_jaxpr(one)(tree_shapes(model), example)
    # The example's columns come last.
    num_given = len(closed.in_avals) - len(jax.tree.leaves(example))
    axes = [None if i < num_given else 0 for i in range(len(closed.in_avals))]
    batched = jax.make_jaxpr(jax.vmap(jaxpr_as_fun(closed), axes))

    def sizes_of(count: int) -> list[int]:
        inputs: list[Any] = [
            jax.ShapeDtypeStruct((count, *x.shape) if axis == 0 else x.shape, x.dtype)
            for x, axis in zip(closed.in_avals, axes, strict=True)
        ]
        return list(_sizes(batched(*inputs).jaxpr))

    return sizes_of


def _sizes(jaxpr: Jaxpr) -> Iterator[int]:
    """The bytes of every array that is computed, in inner programs as well."""
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            yield from _sizes(inner)
        for x in equation.outvars:
            aval: Any = x.aval  # Tokens have no shape, keys no plain dtype.
            if isinstance(aval, ShapedArray) and isinstance(aval.dtype, np.dtype):
                yield aval.size * aval.dtype.itemsize
