"""What a client minimises over a batch, where that is not the mean loss alone.

Some methods leave the solver as it is and change its objective: a term that keeps the
client's predictions near the server's, one that looks at a batch as a whole, margins
that depend on what the client has. They are criteria. The loss is what is reported
either way, so that methods with different criteria can be compared.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from .._cohort import ClientData
from .._overrides import inherit_types
from .._types import Example, Model
from .._wire import Broadcast
from .._words import shown


class AbstractCriterion(eqx.Module):
    """A function of a batch that the client descends, made from the batch's loss."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def begin(self, broadcast: Broadcast, data: ClientData) -> PyTree:
        """The start of a client's round: what `value` needs of what was sent, or of the
        client's data; `None` if nothing. It is the same in all steps."""

    @abc.abstractmethod
    def value(
        self,
        loss: Float[Array, ""],
        model: Model,
        examples: Example,
        mask: Bool[Array, " batch"],
        given: PyTree,
        *,
        keys: Array,
    ) -> Float[Array, ""]:
        """What is minimised.

        **Arguments:**

        - `loss`: the mean loss of the batch's examples.
        - `model`: the client's model, of which the derivative is taken.
        - `examples`, `mask`: the batch, and which of its examples count: at least one.
        - `given`: what `begin` returned.
        - `keys`: one for each example, the same that the loss was given.
        """


class MeanLoss(AbstractCriterion):
    """The mean loss, as it is."""

    def begin(self, broadcast, data):
        return None

    def value(self, loss, model, examples, mask, given, *, keys):
        return loss


def check_value(criterion: AbstractCriterion, value: Any) -> None:
    """Refuses what cannot be minimised."""
    is_number = isinstance(value, jax.Array) and value.shape == ()
    if not (is_number and jnp.issubdtype(value.dtype, jnp.floating)):
        raise TypeError(
            f"`{type(criterion).__name__}.value` must return one floating-point "
            f"number, got {shown(value)}. Take a mean over the examples that `mask` "
            "keeps."
        )
