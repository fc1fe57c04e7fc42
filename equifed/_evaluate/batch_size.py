"""How many examples to evaluate at a time.

On a CPU the best number differs by a factor of a hundred between models: large enough
that a batch's matrix products are not thin, small enough that what one layer writes is
still in the cache when the next one reads it. So it is found from the sizes of what is
computed from one example, without computing anything.
"""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Jaxpr, jaxprs_in_params

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
    two, three = (_batch_sizes(metrics, model, example, n) for n in (2, 3))
    largest = max((y - x for x, y in zip(two, three, strict=True)), default=1)
    fitting = max(_CACHE // max(largest, 1), 1)
    return min(max(2 ** (fitting.bit_length() - 1), _LEAST), _MOST)


def _batch_sizes(
    metrics: Measure, model: Model, example: Example, count: int
) -> list[int]:
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), example
    )
    model = tree_shapes(model)

    def batched(model, batch):
        return jax.vmap(lambda x: metrics_of(metrics, model, x, jr.key(0)))(batch)

    closed, _, _ = eqx.filter_make_jaxpr(batched)(model, batch)
    return list(_sizes(closed.jaxpr))


def _sizes(jaxpr: Jaxpr) -> Iterator[int]:
    """The bytes of every array that is computed, in inner programs as well."""
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            yield from _sizes(inner)
        for x in equation.outvars:
            aval: Any = x.aval  # Tokens have no shape, keys no plain dtype.
            if isinstance(aval, ShapedArray) and isinstance(aval.dtype, np.dtype):
                yield aval.size * aval.dtype.itemsize
