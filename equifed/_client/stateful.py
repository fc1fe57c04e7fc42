"""The loss of a model with a state: what batch normalisation needs.

A state is changed by all examples of a batch together, and what a layer makes of one
example depends on the others. Still a user writes the loss of one example; it is mapped
over the batch with a name for its axis, over which the layers take their means.
"""

import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from .._check import check_kind, checked
from .._metrics import AbstractMetric, as_metrics
from .._tree import difference, tree_shapes, tree_where
from .._types import Example, Model
from .._words import shown
from .batch_program import of_one, over_kept, Program, StateError


Metrics = dict[str, AbstractMetric]


class Stateful(eqx.Module):
    r"""The loss of a model that has a state: running statistics, as
    `equinox.nn.BatchNorm` has them, or whatever else is in an `equinox.nn.State`.

    What is trained is the pair `(model, state)` that `equinox.nn.make_with_state(...)`
    returns. The loss is given both, and returns the new state after its value. Within
    it `axis_name` is an axis over the batch: means over it are those of the examples
    that count, however short the batch is.

    A client carries the state from step to step. What it ends with is averaged over the
    clients with the weights of their messages, unless it is personal or frozen: see
    [`equifed.statistics`][]. Whole numbers, such as a count of batches, are averaged as
    well, and rounded.

    In [`equifed.evaluate`][] it is a metric: its value, in inference mode.

    **Arguments:**

    - `loss`: of ONE example, `loss(model, state, example, key)`: returns `(value,
        state)`, or `(value, state, metrics)`.
    - `axis_name`: the name of the batch's axis, as the layers have it.

    !!! example

        ```python
        def loss(model, state, example, key):
            logits, state = model(example["x"], state)
            return eqf.cross_entropy(logits, example["y"]), state

        pair = eqx.nn.make_with_state(Net)(key=jr.key(0))
        algorithm = eqf.FedAvg(eqf.Stateful(loss), optax.sgd(0.1), batching)
        solution = eqf.train(algorithm, pair, loader, num_rounds=10, key=jr.key(1))
        model, state = solution.model
        ```
    """

    loss: Callable[..., Any]
    axis_name: str = eqx.field(static=True)

    @checked()
    def __init__(self, loss: Callable[..., Any], *, axis_name: str = "batch"):
        check_kind("axis_name", axis_name, str)
        self.loss = loss
        self.axis_name = axis_name

    def __call__(self, model: Model, example: Example, key: PRNGKeyArray) -> Any:
        """The value of one example, with its metrics, outside of any batch."""
        value, _, metrics = _parts(self, model, example, key)
        return (value, metrics) if metrics else value


def alone(loss: Any) -> Any:
    """The loss of one example as such, for what only wants to know its program: that of
    a batch of one, in training."""
    if not isinstance(loss, Stateful):
        return loss

    def of_one_example(model: Model, example: Example, key: PRNGKeyArray) -> Any:
        program, args = _traced(loss, model, example, key, 1)
        value, _, metrics = program(of_one, *args)
        return (value, metrics) if metrics else value

    return of_one_example


def over_batch(
    loss: Stateful,
    model: Model,
    examples: Example,
    mask: Bool[Array, " batch"],
    keys: Array,
) -> tuple[Array, Metrics, PyTree]:
    """The values of a batch's examples and their metrics, and the new state of all
    together: as it was, if the mask keeps none of them."""
    axis, size = loss.axis_name, mask.shape[0]
    one, key = jtu.tree_map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (examples, keys)
    )
    program, (arrays, *_) = _traced(loss, model, one, key, size)
    count = jnp.maximum(jnp.sum(mask), 1)

    def each(example: Example, key: PRNGKeyArray, keep: Array) -> Any:
        collective = over_kept(axis, keep, size, count)
        value, new, metrics = program(collective, arrays, example, key)
        return value, new, as_metrics(value, metrics)

    mapped = jax.vmap(each, axis_name=axis, out_axes=(0, None, 0))
    try:
        value, new, metrics = mapped(examples, keys, mask)
    except ValueError as error:
        if "out_axes" not in str(error):
            raise
        raise StateError(
            "The new state of a `Stateful` loss must be that of the batch, but it "
            "depends on one example. Take a mean over the batch of what goes into it: "
            f"`jax.lax.pmean(x, {axis!r})`."
        ) from error
    old = _pair(model)[1]
    new = jtu.tree_map(lambda x, y: x.astype(y.dtype), new, old)
    return value, metrics, tree_where(jnp.any(mask), new, old)


def _traced(
    loss: Stateful, model: Model, example: Any, key: Any, size: int
) -> tuple[Program, tuple[PyTree, Any, Any]]:
    """The program of one example, in a batch of a size, and what it is given."""
    arrays, static = eqx.partition(model, _is_array)

    def one(arrays: PyTree, example: Example, key: PRNGKeyArray) -> Any:
        return _parts(loss, eqx.combine(arrays, static), example, key)

    args = (arrays, example, key)
    try:
        return Program(one, loss.axis_name, size, *tree_shapes(args)), args
    except NameError as error:
        if "unbound axis name" not in str(error):
            raise
        name = re.search(r"axis name: (\w+)", str(error))
        wanted = "..." if name is None else repr(name[1])
        raise StateError(
            f"The loss takes a mean over its batch, which has no axis {wanted}: it is "
            f"named {loss.axis_name!r}. Give the name that the layers have: "
            f"`Stateful(loss, axis_name={wanted})`."
        ) from error


def _parts(loss: Stateful, pair: Model, example: Example, key: PRNGKeyArray) -> Any:
    model, state = _pair(pair)
    out = loss.loss(model, state, example, key)
    wanted = "`(value, state)`, or `(value, state, metrics)`"
    if not isinstance(out, tuple) or len(out) not in (2, 3):
        raise StateError(f"A `Stateful` loss must return {wanted}, got {shown(out)}.")
    value, new, metrics = out if len(out) == 3 else (*out, {})
    if not isinstance(new, eqx.nn.State):
        raise StateError(
            f"A `Stateful` loss must return {wanted}, with the `eqx.nn.State` "
            f"second, got {shown(new)}."
        )
    try:
        found = difference("state", new, _pair(pair)[1])
    except ValueError as error:  # Equinox's: it is an old state.
        raise StateError(
            "A `Stateful` loss must return the newest state, got one that was "
            "used up: write `y, state = layer(x, state)` for each layer."
        ) from error
    if found is not None:
        raise StateError(
            f"A `Stateful` loss must return a state like the one it is given, but "
            f"{found}."
        )
    return value, new, metrics


def _pair(pair: Any) -> tuple[Any, Any]:
    """The model and a copy of its state: one that is changed cannot be used again."""
    is_pair = isinstance(pair, tuple) and len(pair) == 2
    if not is_pair or not isinstance(pair[1], eqx.nn.State):
        raise StateError(
            "`Stateful` trains the pair `(model, state)` that "
            f"`eqx.nn.make_with_state(Model)(...)` returns, got {shown(pair)}."
        )
    model, state = pair
    leaves, treedef = jtu.tree_flatten(state)
    return model, jtu.tree_unflatten(treedef, leaves)


def _is_array(x: Any) -> bool:
    return eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)


def with_statistics(statistics: PyTree, rest: Model) -> Model:
    """The rest of a model, with these in its state, if there are any."""
    return rest if statistics is None else eqx.combine(statistics, rest)


def statistics_in(state: PyTree, like: PyTree) -> PyTree:
    """Those arrays of a model's new state that a client carries."""
    if like is None:
        return None
    model, old = like  # The model has none.
    return model, jtu.tree_map(
        lambda y, x: None if y is None else x, old, state, is_leaf=lambda y: y is None
    )
