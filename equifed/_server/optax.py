"""The server as an optimiser (Reddi et al., 2021, arXiv 2003.00295)."""

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu

from .._optim import as_optim, Optim
from .._tree import difference, tree_add, tree_cast_like
from .._wire import CHANGE
from .._words import shown
from .base import AbstractServer


class OptaxServer(AbstractServer):
    r"""Any Optax optimiser on the pseudo-gradient $-\Delta$, where $\Delta$ is the
    aggregated change of the params.

    `optax.sgd(1.0)` adds the change: FedAvg.
    """

    understands = (CHANGE,)
    optim: Optim = eqx.field(converter=as_optim)

    def init(self, params, *, num_clients):
        return self.optim.init(params)

    def broadcast(self, params, state):
        return None

    def round(self, params, aggregate, state, *, key):
        payload = aggregate.payload
        if jtu.tree_structure(payload) != jtu.tree_structure(params):
            raise TypeError(
                "`OptaxServer` takes a step along a change of the params, got "
                f"{shown(payload)} of another structure. The aggregator must suit the "
                "client: `PosteriorProduct` for `GaussianMoments`, say."
            )
        found = difference("payload", tree_cast_like(payload, params), params)
        if found is not None:
            raise TypeError(
                f"`OptaxServer` takes a step along a change of the params, but {found}."
            )
        gradient = jtu.tree_map(jnp.negative, payload)
        updates, state = self.optim.update(gradient, state, params)
        return tree_add(params, updates), state
