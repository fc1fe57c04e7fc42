"""What some methods need beside the loss: the model's outputs, and an example's label.

The loss hides both. So the user gives them again, a function of what the loss is given
for the outputs, and the name of a column for the label.
"""

from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._tree import tree_shapes
from .._types import Example, Model
from .._words import first_line, shown


Outputs: TypeAlias = Callable[[Model, Example, PRNGKeyArray], Array]


class Column(eqx.Module):
    """The column of an example that an argument names."""

    argument: str
    name: str

    def __call__(self, example: Example) -> Int[Array, ""]:
        if not isinstance(example, dict) or self.name not in example:
            raise ValueError(
                f"`{self.argument}` must be the name of a column, or a function of one "
                f"example, and there is no {self.name!r} in {shown(example)}."
            )
        return example[self.name]


def as_column(argument: str, x: str | Callable) -> Callable[[Example], Array]:
    """The function that a column's name stands for."""
    return Column(argument, x) if isinstance(x, str) else x


def outputs_of(
    argument: str,
    fn: Outputs,
    model: Model,
    examples: Example,
    keys: Array,
) -> Array:
    """A vector for each example of a batch, each with its key.

    **Raises:**

    `ValueError` if the user's function fails, or makes anything but one vector of
    floating-point numbers of an example.
    """
    keys = jr.clone(keys)  # The loss has been given them, and so may another model.
    one, key = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (examples, keys)
    )
    wanted = (
        f"`{argument}` must make a vector of floating-point numbers of ONE example, by "
        f"a call `{argument}(model, example, key)`"
    )
    try:
        shape = eqx.filter_eval_shape(fn, tree_shapes(model), one, key)
    except Exception as error:
        raise ValueError(
            f"{wanted}, got {type(error).__name__}: {first_line(error)}."
        ) from error
    if not (
        isinstance(shape, jax.ShapeDtypeStruct)
        and len(shape.shape) == 1
        and shape.shape != (0,)
        and jnp.issubdtype(shape.dtype, jnp.floating)
    ):
        raise ValueError(f"{wanted}, got {shown(shape)}.")
    return jax.vmap(lambda example, key: fn(model, example, key))(examples, keys)


def labels_of(
    label: Callable[[Example], Array], examples: Example, num_classes: int
) -> tuple[Int[Array, " batch"], Bool[Array, " batch"]]:
    """The label of each example of a batch, and whether it is one of the classes.

    **Raises:**

    `TypeError` if labels are no integers.
    """
    labels = jax.vmap(label)(examples)
    wanted = (
        "`label` must give one integer for an example, the number of its class, got"
    )
    if not isinstance(labels, jax.Array):
        raise TypeError(f"{wanted} {shown(labels)} for a batch of them.")
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{wanted} {labels.dtype}{list(labels.shape[1:])}.")
    # A narrow type may not hold the number of classes.
    labels = labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)
    return labels, (labels >= 0) & (labels < num_classes)


def nan_where(
    bad: Bool[Array, " batch"], outputs: Float[Array, "batch classes"]
) -> Float[Array, "batch classes"]:
    """Makes outputs of bad examples NaN, and what is made of them, with its gradient: a
    NaN that is only put in the place of a value would have a gradient of zero, and
    nobody would know."""
    factor = jnp.where(bad[:, None], jnp.nan, jnp.ones_like(outputs))
    return outputs * factor


def masked_mean(values: Array, mask: Bool[Array, " batch"]) -> Array:
    """The mean over those examples of a batch that count."""
    count = jnp.maximum(mask.sum(), 1).astype(values.dtype)
    return jnp.where(mask, values, jnp.zeros_like(values)).sum() / count
