"""Each client for itself: the baseline that any federation has to beat."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp

from .._aggregator import UniformMean
from .._bits import Bits, UP
from .._check import checked
from .._client import AbstractWrapper, LocalSGD
from .._client.keeping import Keeping, Kept
from .._optim import OptimLike
from .._round import Beginning
from .._tree import tree_isfinite
from .._types import Loss
from .._wire import Broadcast, Message
from ..data import AbstractBatching
from .of_client import _AbstractOfClient


class Alone(AbstractWrapper):
    """Trains a model of its own, all of which is personal, and says nothing."""

    client: Keeping

    def __init__(self, client: LocalSGD):
        self.client = Keeping(client)

    def init(self, params):
        return Kept(None, params)

    def payload(self, params):
        return None

    def round(self, broadcast, data, state, *, key):
        message, state, metrics = self.client.round(broadcast, data, state, key=key)
        # One that diverged keeps the model that it had: as if it had not taken part.
        weight = jnp.where(tree_isfinite(state.personal), message.weight, 0)
        return Message(None, weight), state, {**metrics, UP: Bits(0)}


class LocalOnly(_AbstractOfClient):
    r"""No federation: client $i$ trains its own model $\theta_i$ on its own examples
    whenever it takes part.

    Nothing is sent, and there is no one model: [`equifed.evaluate_personal`][] measures
    the clients' own. All begin with the model that `init` was given. The optimiser's
    state starts afresh in every round, as that of the clients of the other algorithms.
    Any `roles` will do: shared leaves are the client's own here, as personal ones are,
    and so are the statistics of a [`equifed.Stateful`][] loss. A client whose model
    becomes non-finite keeps the one that it had, and counts as `nonfinite` and not
    among `clients`.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].
    """

    client: Alone
    keeps_statistics = True

    @checked()
    def __init__(self, loss: Loss, client_optim: OptimLike, batching: AbstractBatching):
        self.client = Alone(LocalSGD(loss, client_optim, batching))

    @property
    def carries_state(self) -> bool:
        return self.client.carries_state

    def begin(self, params, *, num_clients, key):
        return Beginning(params, clients=self.client.init(params))

    def keep(self, params, personal, begun):
        return self.client.init(eqx.combine(params, personal))

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
        return eqx.combine(kept.personal, state.rest)
