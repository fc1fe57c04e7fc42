r"""FedNova's client: local SGD that also says how far its steps could have carried it.

With an optimiser that is linear in its gradients, a client's change is a weighted sum
of them, $\Delta_i = -\eta \sum_k a_{i,k} g_k$. FedNova needs $\eta \lVert a_i
\rVert_1$. The paper derives it by hand for momentum and for proximal terms; but it is
simply how far the same optimiser carries one number whose gradient is 1 at every step.
So that is what is run.
"""

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optax

from .._check import checked
from .._loop import fold_range
from .._tree import tree_add, tree_divide
from .._wire import Message
from .correction import ControlVariate, DynamicRegularizer
from .local_sgd import LocalSGD
from .wrapper import AbstractWrapper


class Normalized(AbstractWrapper):
    r"""Wraps `LocalSGD`: sends $\Delta_i / s_i$, and $s_i = \eta \lVert a_i \rVert_1$
    in the message's `stats`.

    Exact for SGD with or without momentum, Nesterov's included, under any schedule,
    and with a proximal correction. For other optimisers $s_i$ is the distance that a
    constant gradient of 1 would have travelled. One that treats leaves differently
    (masks, several optimisers) has no single length, and is refused.
    """

    client: LocalSGD

    @checked()
    def __init__(self, client: LocalSGD):
        self.client = client

    def __check_init__(self):
        if isinstance(self.client.correction, ControlVariate | DynamicRegularizer):
            raise ValueError(
                "`Normalized` (FedNova) takes `NoCorrection` or `Proximal`, got "
                f"`{type(self.client.correction).__name__}`, which remembers a "
                "gradient: the change is then no sum of this round's gradients alone."
            )
        optim = self.client.optim
        if optim.needs:
            raise TypeError(
                f"FedNova cannot normalise the steps of the optimiser `{optim.names}`, "
                "whose length depends on the loss. Use one that asks for gradients and "
                "params alone, or FedAvg."
            )

    def init(self, params):
        optim = self.client.optim
        several = (optax.MaskedState, optax.PartitionState)
        state = jax.eval_shape(optim.init, params)
        parts = jtu.tree_leaves(state, is_leaf=lambda x: isinstance(x, several))
        if any(isinstance(x, several) for x in parts):
            raise ValueError(
                "FedNova divides a client's change by the length of its steps, and the "
                f"optimiser `{optim.names}` steps differently for different leaves. "
                "Use one optimiser for all of them, or FedAvg."
            )
        return self.client.init(params)

    def payload(self, params):
        return self.client.payload(params)

    def round(self, broadcast, data, state, *, key):
        optim, correction = self.client.optim, self.client.correction
        message, new_state, metrics = self.client.round(broadcast, data, state, key=key)
        dtype = jnp.result_type(float)
        one, zero = jnp.ones((), dtype), jnp.zeros((), dtype)

        def step(i, carry):
            place, optim_state, corrected = carry
            grad, corrected = correction.correct(one, place, corrected, lambda _: one)
            update, optim_state = optim.update(grad, optim_state, place)
            return tree_add(place, update), optim_state, corrected

        corrected = correction.begin(zero, None, None, lambda _: one)
        carry = (zero, optim.init(zero), corrected)
        bound = data.order.shape[0]
        place, _, _ = fold_range(
            step, carry, data.num_steps, bound, differentiable=data.differentiable
        )
        scale = -place
        payload = tree_divide(message.payload, scale)
        return Message(payload, message.weight, scale), new_state, metrics
