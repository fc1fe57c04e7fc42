"""Each client for itself: the baseline that any federation has to beat."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp

from .._aggregator import UniformMean
from .._bits import Bits, UP
from .._check import checked
from .._client import AbstractWrapper, LocalSGD
from .._optim import OptimLike
from .._round import Beginning
from .._tree import tree_add, tree_isfinite
from .._types import Loss
from .._wire import Broadcast, Message
from ..data import AbstractBatching
from .base import AbstractAlgorithm, NOT_KEPT


class Alone(AbstractWrapper):
    """Trains a model of its own, and says nothing."""

    client: LocalSGD
    carries_state = False  # pyright: ignore[reportAssignmentType]

    def __init__(self, client: LocalSGD):
        self.client = client

    def init(self, params):
        return params

    def payload(self, params):
        return None

    def round(self, broadcast, data, state, *, key):
        own = Broadcast(state, broadcast.rest)
        message, _, metrics = self.client.round(own, data, None, key=key)
        state = tree_add(state, message.payload)
        # One that diverged keeps the model that it had: as if it had not taken part.
        weight = jnp.where(tree_isfinite(state), message.weight, 0)
        return Message(None, weight), state, {**metrics, UP: Bits(0)}


class LocalOnly(AbstractAlgorithm):
    r"""No federation: client $i$ trains its own model $\theta_i$ on its own examples
    whenever it takes part.

    Nothing is sent, and there is no one model: [`equifed.evaluate_personal`][] measures
    the clients' own. All begin with the model that `init` was given. The optimiser's
    state starts afresh in every round, as that of the clients of the other algorithms.
    A client whose model becomes non-finite keeps the one that it had, and counts as
    `nonfinite` and not among `clients`.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].
    """

    client: Alone

    @checked()
    def __init__(self, loss: Loss, client_optim: OptimLike, batching: AbstractBatching):
        self.client = Alone(LocalSGD(loss, client_optim, batching))

    @property
    def loss(self) -> Loss:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.loss

    @property
    def batching(self) -> AbstractBatching:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.batching

    def begin(self, params, *, num_clients, key):
        return Beginning(params, clients=self.client.init(params))

    def keep(self, params, personal, begun):
        what = "keeps each client's whole model to itself"
        raise ValueError(NOT_KEPT.format(type(self).__name__, what))

    def step(self, state, clients, *, key):
        nothing = Broadcast(None, state.rest)
        out = clients(self.client, UniformMean(), nothing, state.clients, key=key)
        state = dataclasses.replace(state, clients=out.clients)
        return state, out.metrics, out.aggregate.accept

    def model(self, state):
        return None

    def models(self, state):
        """The one that every client began with: theirs are like it."""
        return [state.model]

    def own_model(self, state, kept):
        return eqx.combine(kept, state.rest)
