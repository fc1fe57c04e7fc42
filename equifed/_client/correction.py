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

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Int, PyTree

from .._check import check_choice, number
from .._tree import (
    tree_add,
    tree_add_scaled,
    tree_cast_like,
    tree_divide,
    tree_scale,
    tree_sub,
    tree_where,
    tree_wide,
    tree_zeros_like,
)
from .._types import ClientState, Params
from .._words import shown


Gradient = Callable[[Params], Params]


class AbstractCorrection(eqx.Module):
    """What a client adds to its gradients, and remembers between rounds."""

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

    def begin(self, params, shared, state, gradient):
        return None

    def correct(self, grads, params, carry, gradient):
        return grads, carry


class Proximal(AbstractMemoryless):
    r"""Pulls the client towards the broadcast model: the gradient of
    $\frac{\mu}{2} \lVert \theta - x \rVert^2$ (FedProx)."""

    mu: Float[Array, ""] = eqx.field(converter=number("mu", least=0))

    def begin(self, params, shared, state, gradient):
        return params

    def correct(self, grads, params, carry, gradient):
        pull = tree_sub(params, carry)
        return tree_add_scaled(grads, self.mu, pull), carry


class Control(eqx.Module):
    """SCAFFOLD's payload: the change of the params, and of the control variate."""

    delta: Params
    control: Params


class ControlVariate(AbstractCorrection):
    r"""SCAFFOLD's control variates: $g - c_i + c$.

    After its $K$ steps the client renews its own, $c_i$, in one of two ways: by
    `option=1`, the gradient over all its data at the broadcast model; by `option=2`,
    the mean of the gradients that it computed on the way, $\frac1K \sum_k g_k$. For
    plain SGD with step size $\eta$ the second is what the paper writes as
    $c_i - c + \frac{1}{K\eta}(x - y_i)$, and it asks for no step size, so that it
    holds for any optimiser.
    """

    option: int = 2

    def __check_init__(self):
        check_choice("option", self.option, (1, 2))

    def init(self, params):
        return tree_zeros_like(params)

    def payload(self, params):
        return Control(params, params)

    def begin(self, params, shared, state, gradient):
        if jtu.tree_structure(shared) != jtu.tree_structure(params):
            raise TypeError(
                "`ControlVariate` takes the server's control variate from its "
                f"broadcast, got {shown(shared)}. It goes with `ScaffoldServer`."
            )
        seen = (
            gradient(params) if self.option == 1 else tree_wide(tree_zeros_like(params))
        )
        return tree_sub(shared, state), seen, state

    def correct(self, grads, params, carry, gradient):
        offset, seen, state = carry
        if self.option == 2:
            seen = tree_add(seen, grads)
        return tree_add(grads, offset), (offset, seen, state)

    def end(self, delta, num_steps, carry):
        _, seen, state = carry
        if self.option == 2:
            seen = tree_divide(seen, num_steps.astype(jnp.result_type(float)))
        seen = tree_cast_like(seen, state)
        # A client that took no step has seen nothing.
        new = tree_where(num_steps > 0, seen, state)
        return Control(delta, tree_sub(new, state)), new


class DynamicRegularizer(AbstractCorrection):
    r"""FedDyn's regulariser: $g - h_i + \alpha (\theta - x)$.

    $h_i$ is the client's gradient at its last local optimum, kept up to date by
    $h_i \leftarrow h_i - \alpha (\theta_i - x)$.
    """

    alpha: Float[Array, ""] = eqx.field(converter=number("alpha", least=0, strict=True))

    def init(self, params):
        return tree_zeros_like(params)

    def payload(self, params):
        return params

    def begin(self, params, shared, state, gradient):
        return params, state

    def correct(self, grads, params, carry, gradient):
        start, h = carry
        pull = tree_sub(tree_scale(self.alpha, tree_sub(params, start)), h)
        return tree_add(grads, pull), carry

    def end(self, delta, num_steps, carry):
        _, h = carry
        return delta, tree_add_scaled(h, -self.alpha, delta)
