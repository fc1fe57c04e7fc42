"""From the loss of one example to the gradient of a batch.

Users write the loss of one example. Here it is mapped over a batch, masked, averaged,
and differentiated; here too its mistakes are found, before anything is compiled.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray

from .._lookups import among, Lookups, Numbered, Program, traced
from .._metrics import AbstractMetric, as_metrics
from .._tree import is_state, tree_shapes
from .._types import Example, Loss, Model
from .._words import first_line, shown
from .batch_program import StateError
from .stateful import alone


Metrics = dict[str, AbstractMetric]


def example_metrics(
    loss: Loss, model: Model, example: Example, key: PRNGKeyArray
) -> tuple[Array, Metrics]:
    """The loss of one example, and its metrics, the loss included."""
    out: Any = loss(model, example, key)
    value, values = out if isinstance(out, tuple) else (out, {})
    return value, as_metrics(value, values)


_NO_STATE = (
    "The loss asks for statistics of a batch, or updates an `eqx.nn.State`, as "
    "`BatchNorm` and `SpectralNorm` do in training, but a plain loss is given ONE "
    "example. Give `equifed.Stateful(loss)` of a `loss(model, state, example, key)` "
    "that returns `(value, state)`; or use `eqx.nn.GroupNorm` or `LayerNorm`; or train "
    "with the statistics as they are: `eqx.nn.inference_mode(model)`."
)


class _Stateful(Exception):
    """Raised where a loss updates a state."""


def _stateless(loss: Loss, model: Model, example: Example, key: PRNGKeyArray) -> Any:
    """The loss; an error if it updates a state, for the update would be lost."""
    leaves = jax.tree.leaves(model, is_leaf=is_state)
    states = [x for x in leaves if is_state(x)]
    out = alone(loss)(model, example, key)
    try:
        jax.tree.leaves(states)
    except ValueError as error:  # Equinox: an old state cannot be used again.
        raise _Stateful from error
    return out


def check_loss(
    loss: Loss, model: Model, example: Example, where: str, *, what: str = "loss"
) -> Metrics:
    """Tries the loss on the shape of one example, without computing anything.

    **Arguments:**

    - `where`: whose example it is, for the error message.
    - `what`: what it is that is tried: `"loss"`, or `"metrics"` of an evaluation.

    **Returns:**

    The shapes and dtypes of the metrics that the loss reports.

    **Raises:**

    `ValueError` if the loss cannot take the example, or returns anything but one
    floating-point number, or a pair of it and a dictionary.
    """
    return _tried(
        lambda x: eqx.filter_eval_shape(_stateless, loss, x, example, jr.key(0)),
        model,
        example,
        where,
        what,
    )


def traced_loss(
    loss: Loss,
    model: Model,
    example: Example,
    where: str,
    numbered: Sequence[Numbered] = (),
) -> tuple[Metrics, Lookups]:
    """As `check_loss`, and what the loss, and an algorithm beside it, reads by numbers
    of the example."""
    programs: list[Program] = []

    def given(model: Model) -> Any:
        return loss, model, jr.key(0)

    def value(given: Any, example: Example) -> Any:
        loss, model, key = given
        return _stateless(loss, model, example, key)

    def trace(model: Model) -> Any:
        out, program = traced(value, given(model), example)
        programs.append(program)
        return out

    metrics = _tried(trace, model, example, where)
    beside = [column for each in numbered for column in among(each, example)]
    return metrics, Lookups(programs[0], given, beside)


def _tried(
    trace: Callable[[Model], Any],
    model: Model,
    example: Example,
    where: str,
    what: str = "loss",
) -> Metrics:
    is_loss = what == "loss"
    shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", example)
    shapes = f"{shapes!s:.150}"
    try:
        out: Any = trace(tree_shapes(model))
    except StateError:
        raise  # It says what is wrong.
    except Exception as error:
        if isinstance(error, _Stateful) or "unbound axis name" in str(error):
            raise ValueError(_NO_STATE) from error
        raise ValueError(
            f"The {what} failed on an example of {where}, {shapes}. "
            f"{'Its' if is_loss else 'Their'} own error was {type(error).__name__}: "
            f"{first_line(error)}. The {what} {'is' if is_loss else 'are'} given ONE "
            f"example, without a batch axis, by a call `{what}(model, example, key)`."
        ) from error
    value: Any = out
    values: Any = {}
    if isinstance(out, tuple) and len(out) == 2:
        value, values = out
    kind = getattr(value, "dtype", None)
    if kind is None or value.shape != () or not jnp.issubdtype(kind, jnp.floating):
        remedy = "Take the mean of a vector, and make an array of a Python number."
        wanted = "" if is_loss else "a dictionary, or a loss: "
        raise ValueError(
            f"The {what} of one example must be {wanted}one floating-point number, as "
            "an array, or a pair of it and a dictionary of metrics, got "
            f"{shown(value)} for an example of {where}, {shapes}. {remedy}"
        )
    if not isinstance(values, dict):
        raise ValueError(
            "After its loss a function must return a dictionary of metrics, "
            f"got {shown(values)}."
        )
    return eqx.filter_eval_shape(as_metrics, value, values)
