"""A batch's gradient in parts, one after another: only one part's activations are kept.

What a batch's gradient takes of memory is mostly what the forward pass leaves for the
backward one, which grows with the batch. A sum of gradients needs no more of them at a
time than are looked at together.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from .._check import check_count, checked
from .._loop import traced_once
from .._tree import tree_add, tree_zeros_like
from .._types import Example, Loss, Model
from .stateful import Stateful


Summed = TypeVar("Summed", bound=PyTree)


class Microbatched(eqx.Module):
    r"""A loss whose gradient over a batch is computed from `size` examples at a time.

    The batch stays what it was, a step of the client and one update of its optimiser;
    its gradient is the sum of those of its parts,

    $$\nabla \frac1{|B|} \sum_{e \in B} \ell(\theta, e) = \frac1{|B|} \sum_{P \subset B}
    \nabla \sum_{e \in P} \ell(\theta, e),$$

    added up in float32 at least, where $|B|$ counts the examples that are there, in all
    parts together: a short batch, or a size that does not divide it, changes nothing.
    Each example is given the key that it would have had.

    It is given to an algorithm in place of the loss. What looks at a batch as a whole
    cannot be summed from parts, and is refused: a [`equifed.Stateful`][] loss, a
    criterion such as `MOON`'s. In an evaluation it is the loss itself.

    **Arguments:**

    - `loss`: of one example, `loss(model, example, key)`.
    - `size`: how many examples are looked at side by side.

    **Raises:**

    `ValueError` if the size is less than 1, or the loss is `Stateful`.

    !!! example

        ```python
        batching = eqf.data.Epochs(1, batch_size=32)
        loss = eqf.Microbatched(loss, size=4)  # eight parts a step
        algorithm = eqf.FedAvg(loss, optax.adamw(1e-4), batching)
        ```
    """

    loss: Loss
    size: int = eqx.field(static=True)

    @checked()
    def __init__(self, loss: Loss, *, size: int):
        if isinstance(loss, Stateful):
            raise ValueError(
                "A `Stateful` loss cannot be `Microbatched`, for its layers normalise "
                "over a whole batch. Use a model with `GroupNorm` or `LayerNorm` and a "
                "plain loss, or smaller batches."
            )
        self.loss = loss
        self.size = check_count("size", size)

    def __call__(self, model: Model, example: Example, key: PRNGKeyArray) -> Any:
        """That of one example."""
        return self.loss(model, example, key)


def check_whole(loss: Any, what: str) -> None:
    """Refuses a loss in parts for what does not compute in parts."""
    if isinstance(loss, Microbatched):
        raise ValueError(
            f"`{what}` needs all of a batch side by side, and the loss is "
            "`Microbatched`. Give it the plain loss, and smaller batches."
        )


def in_same_parts(loss: Loss, made: Loss) -> Loss:
    """A loss that was made of another, in the parts of that."""
    if isinstance(loss, Microbatched):
        return Microbatched(made, size=loss.size)
    return made


def over_parts(function: Callable[..., Summed], size: int, *rows: PyTree) -> Summed:
    """The sum of a function over parts of a batch, of so many rows each.

    **Arguments:**

    - `function`: of the same rows as a batch, of which some may not be there: the last
        row, again, stands for them, and the last of `rows` is `False` there.
    - `rows`: the last is the mask.
    """
    *others, mask = rows
    num_rows = mask.shape[0]
    count = -(-num_rows // size)
    places = np.arange(count * size).reshape(count, size)
    there = jnp.asarray(places < num_rows)
    places = np.minimum(places, num_rows - 1)
    *others, mask = jtu.tree_map(lambda x: x[places], (*others, mask))
    parts = (*others, mask & there)

    one = jtu.tree_map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), parts)
    function, shapes = traced_once(function, *one)

    def add(total: Summed, part: tuple) -> tuple[Summed, None]:
        return tree_add(total, function(*part)), None

    return jax.lax.scan(add, tree_zeros_like(shapes), parts)[0]
