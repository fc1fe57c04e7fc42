"""What some methods need beside the loss: the model's outputs, and an example's label.

The loss hides both. So the user gives them again, a function of what the loss is given
for the outputs, and the name of a column for the label.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from .._cohort import ClientData
from .._tree import tree_shapes
from .._types import Example, Model
from .._words import first_line, shown


Outputs: TypeAlias = Callable[[Model, Example, PRNGKeyArray], Array]


class Column(eqx.Module):
    """The column of an example that an argument names."""

    argument: str
    name: str

    def __call__(self, example: Example) -> Array:
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
    one, key = _one_of((examples, keys))
    call = f"{argument}(model, example, key)"
    shape = _tried(argument, call, fn, tree_shapes(model), one, key)
    if not (
        isinstance(shape, jax.ShapeDtypeStruct)
        and len(shape.shape) == 1
        and shape.shape != (0,)
        and jnp.issubdtype(shape.dtype, jnp.floating)
    ):
        raise ValueError(
            f"`{argument}` must make a vector of floating-point numbers of ONE "
            f"example, by a call `{call}`, got {shown(shape)}."
        )
    return jax.vmap(lambda example, key: fn(model, example, key))(examples, keys)


def labels_of(
    argument: str,
    label: Callable[[Example], ArrayLike],
    examples: Example,
    num_classes: int,
) -> tuple[Int[Array, " batch"], Bool[Array, " batch"]]:
    """The number of each example of a batch, and whether it is one of the classes.

    Truth values are the numbers 0 and 1.

    **Raises:**

    `ValueError` if the user's function fails, `TypeError` if what it gives is no
    integer.
    """

    def number(example: Example) -> Any:
        out = label(example)
        known = isinstance(out, int | np.generic | np.ndarray)
        return jnp.asarray(out) if known else out

    one = _one_of(examples)
    if isinstance(label, Column):  # Its errors are sentences already.
        out = eqx.filter_eval_shape(number, one)
    else:
        out = _tried(argument, f"{argument}(example)", number, one)
    wanted = f"`{argument}` must give one integer for an example, the number of its "
    wanted += "domain" if argument == "domain" else "class"
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise TypeError(f"{wanted}, got {shown(out)}.")
    kinds = (jnp.integer, jnp.bool_)
    if out.shape or not any(jnp.issubdtype(out.dtype, kind) for kind in kinds):
        raise TypeError(f"{wanted}, got {out.dtype}{list(out.shape)}.")
    labels = jax.vmap(lambda example: label_of(label, example))(examples)
    return labels, (labels >= 0) & (labels < num_classes)


def num_outputs(argument: str, fn: Outputs, model: Model, data: ClientData) -> int:
    """The length of the vector that a user's function makes of one example."""
    shapes = eqx.filter_eval_shape(
        lambda model, rows: outputs_of(
            argument, fn, model, rows, jr.split(jr.key(0), 1)
        ),
        model,
        jax.tree.map(lambda x: x[:1], data.examples),
    )
    return shapes.shape[-1]


def class_counts(
    label: Callable[[Example], ArrayLike], data: ClientData, num_classes: int
) -> Float[Array, " classes"]:
    """How many of the client's examples are of each class."""

    def count(total, examples, mask, i):
        labels, _ = labels_of("label", label, examples, num_classes)
        hot = jax.nn.one_hot(labels, num_classes, dtype=total.dtype)
        return total + jnp.where(mask[:, None], hot, 0).sum(0)

    zeros = jnp.zeros(num_classes, jnp.result_type(float))
    return data.fold_examples(count, zeros, batch_size=data.batch_size)


def label_of(label: Callable[[Example], ArrayLike], example: Example) -> Int[Array, ""]:
    """The number of one example, once `labels_of` has looked at what it is."""
    found = jnp.asarray(label(example))
    # A narrow type may not hold the number of classes.
    return found if found.dtype.itemsize >= 4 else found.astype(jnp.int32)


def _one_of(batch: Any) -> Any:
    """The shapes of one example, of those of a batch."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)


def _tried(argument: str, call: str, fn: Callable, *given: Any) -> Any:
    """The shape of what a user's function makes, without computing anything."""
    try:
        return eqx.filter_eval_shape(fn, *given)
    except Exception as error:
        example = given[min(1, len(given) - 1)]
        shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", example)
        raise ValueError(
            f"`{argument}` failed with {type(error).__name__}: {first_line(error)}; it "
            f"is given ONE example, {shapes!s:.150}, by a call `{call}`."
        ) from error


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
