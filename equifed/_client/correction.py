r"""How a client's gradients are corrected for client drift.

A client that takes many steps on its own data drifts towards its own optimum.
Algorithms differ in what they add to each gradient against that, and in what the
client remembers for it; the local solver is the same for all.

| correction | gradient used at $\theta$, from the broadcast $x$ | remembered |
| --- | --- | --- |
| `NoCorrection` | $g$ | |
| `Proximal` | $g + \mu (\theta - x)$ | |
| `ControlVariate` | $g - c_i + c$ | $c_i$ |
| `DynamicRegularizer` | $g - h_i + \alpha (\theta - x)$ | $h_i$ |
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._check import number
from .._overrides import inherit_types
from .._tree import tree_add_scaled, tree_cast_like, tree_divide, tree_sub
from .._types import ClientState, Params
from .._wire import CHANGE


Gradient = Callable[[Params], Params]


class AbstractCorrection(eqx.Module):
    """What a client adds to its gradients, and remembers between rounds."""

    sends: ClassVar[tuple[str, ...]] = ()
    """See `AbstractClient.sends`."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def init(self, params: Params) -> ClientState:
        """What the client remembers before its first round."""

    @abc.abstractmethod
    def payload(self, params: Params) -> PyTree:
        """A tree like the payload that `end` makes: see `AbstractClient.payload`."""

    @abc.abstractmethod
    def begin(
        self, params: Params, shared: PyTree, state: ClientState, gradient: Gradient
    ) -> PyTree:
        """The start of a round, from the broadcast params: what `correct` will need.

        `gradient(params)` computes the gradient over all the client's examples, at any
        params: one more pass over the data.
        """

    @abc.abstractmethod
    def correct(
        self, grads: Params, params: Params, carry: PyTree, gradient: Gradient
    ) -> tuple[Params, PyTree]:
        """One step: the gradient to use instead of `grads`, which is that at `params`.

        `gradient(params)` computes that of the same batch, with the same key, at any
        other params.
        """

    @abc.abstractmethod
    def end(
        self, delta: Params, num_steps: Int[Array, ""], carry: PyTree
    ) -> tuple[PyTree, ClientState]:
        """The end of a round, `delta` later: what to send, and what to remember."""


def mean_of_steps(total: Params, num_steps: Int[Array, ""], like: Params) -> Params:
    """What was summed over the client's steps, by their number; of no step it is 0."""
    steps = jnp.maximum(num_steps, 1).astype(jnp.result_type(float))
    return tree_cast_like(tree_divide(total, steps), like)


class AbstractMemoryless(AbstractCorrection):
    """One that remembers nothing, and sends the change of the params as it is."""

    def init(self, params):
        return None

    def payload(self, params):
        return params

    def end(self, delta, num_steps, carry):
        return delta, None


class NoCorrection(AbstractMemoryless):
    """Plain local SGD."""

    sends = (CHANGE,)

    def begin(self, params, shared, state, gradient):
        return None

    def correct(self, grads, params, carry, gradient):
        return grads, carry


class Proximal(AbstractMemoryless):
    r"""Pulls the client towards the broadcast model: the gradient of
    $\frac{\mu}{2} \lVert \theta - x \rVert^2$ (FedProx)."""

    sends = (CHANGE,)
    mu: Float[Array, ""] = eqx.field(converter=number("mu", least=0))

    def begin(self, params, shared, state, gradient):
        return params

    def correct(self, grads, params, carry, gradient):
        pull = tree_sub(params, carry)
        return tree_add_scaled(grads, self.mu, pull), carry
