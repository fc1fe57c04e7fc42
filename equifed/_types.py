"""The words that every signature uses.

A *model* is any PyTree (usually an `equinox.Module`); its *params* are the same tree
with everything but the floating-point arrays replaced by `None`; an *example* is what
one row of a dataset looks like: usually a dictionary with one entry for each column.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from jaxtyping import Array, Float, PRNGKeyArray, PyTree


Model: TypeAlias = PyTree
Params: TypeAlias = PyTree
Example: TypeAlias = PyTree
ClientState: TypeAlias = PyTree
ServerState: TypeAlias = PyTree
AggregatorState: TypeAlias = PyTree

# The loss of ONE example: `loss(model, example, key)` is a floating-point scalar, or
# a pair of it and a dictionary of further scalars to report. Batches, masks and means
# are the library's business, so users never meet them.
Loss: TypeAlias = Callable[
    [Any, Any, PRNGKeyArray],
    Float[Array, ""] | tuple[Float[Array, ""], dict[str, Any]],
]

# What is measured on ONE example: a loss, or a function that returns a dictionary of
# numbers and metrics.
Measure: TypeAlias = Callable[
    [Any, Any, PRNGKeyArray],
    Float[Array, ""] | tuple[Float[Array, ""], dict[str, Any]] | Mapping[str, Any],
]
