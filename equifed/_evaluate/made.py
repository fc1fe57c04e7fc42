"""What the clients' own models are made of: rows of what they keep, and what they
have in common, which is there once."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

from .._algorithm import AbstractAlgorithm
from .._client.keeping import kept_in
from .._round import State
from .._round.state import begin
from .._tree import rowwise, tree_there
from .._types import ClientState, Model
from .fine_tune import FineTune
from .own import Own


def newcomer(algorithm: AbstractAlgorithm, state: State) -> ClientState:
    """What a client keeps that joins now."""
    kept = kept_in(state.clients)
    personal = None
    if kept is not None:
        personal = eqx.filter(state.rest, tree_there(kept.personal))
    parts = (algorithm, state.params, personal)
    return begin(*parts, num_clients=1, key=jr.key(0)).clients


def gives_own(algorithm: AbstractAlgorithm, state: State) -> bool:
    """Whether a client's model is another than the one that is trained."""
    trained = {id(x) for x in jtu.tree_leaves((state.params, state.others))}

    def other(kept: ClientState) -> bool:
        own = jtu.tree_leaves(algorithm.own_model(state, kept))
        return any(eqx.is_array(x) and id(x) not in trained for x in own)

    row = eqx.filter_eval_shape(newcomer, algorithm, state)
    return eqx.filter_eval_shape(other, row)


class Maker:
    """Makes the clients' models of what they keep, and tells apart what they have in
    common: the leaves that are the state's own, unless these are to be tuned."""

    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        state: State,
        tune: FineTune | None,
    ):
        self._algorithm, self._state = algorithm, state
        self._newcomer = newcomer(algorithm, state)
        model = algorithm.own_model(state, self._newcomer)
        parts = (state.params, state.statistics, state.rest)
        known = {id(x) for x in jtu.tree_leaves(parts)}
        new = {id(x) for x in jtu.tree_leaves(self._newcomer)}
        # What a newcomer has may be an array of the state: then it is not common.
        is_own = jtu.tree_map(
            lambda x: eqx.is_array(x) and (id(x) not in known or id(x) in new), model
        )
        if tune is not None:
            is_own = jtu.tree_map(
                lambda own, tuned: bool(own) or tuned is not None,
                *(is_own, tune.split(model)[0]),
                is_leaf=lambda x: x is None,
            )
        self._is_own = is_own
        self._common = eqx.filter(model, is_own, inverse=True)
        self.nbytes = sum(x.nbytes for x in jtu.tree_leaves(eqx.filter(model, is_own)))

    def __call__(self, numbers: np.ndarray) -> Own:
        """The models of clients by their numbers in the training, -1 for newcomers."""
        seen = numbers >= 0
        at = np.where(seen, numbers, 0)
        on_device = jtu.tree_map(
            lambda all: isinstance(all, jax.Array), self._state.clients
        )
        all, elsewhere = eqx.partition(self._state.clients, on_device)
        rows = jtu.tree_map(lambda all: jax.device_put(all[at]), elsewhere)
        # Those of all clients may be too many for a device.
        rest = dataclasses.replace(self._state, clients=None)
        kept = (all, rows, None if seen.all() else self._newcomer)
        at, seen = jax.device_put((at, seen))
        stacked = _stacked(self._algorithm, rest, kept, at, seen, self._is_own)
        return Own(stacked, self._common)


@eqx.filter_jit
def _stacked(
    algorithm: AbstractAlgorithm,
    state: State,
    kept: tuple[ClientState, ClientState, ClientState | None],
    at: Array,
    seen: Array,
    is_own: PyTree[bool],
) -> Model:
    """**Arguments:**

    - `kept`: what all clients keep that is on the device, the rows of what is not, and
        what one keeps that has not been seen, if there are any.
    """
    all, rows, newcomer = kept
    rows = eqx.combine(jtu.tree_map(lambda x: x[at], all), rows)
    if newcomer is not None:
        rows = jtu.tree_map(
            lambda x, new: jnp.where(rowwise(seen, x), x, new[None]), rows, newcomer
        )

    def one(kept: ClientState, place: Array) -> Model:
        del place  # It is mapped over, as there may be nothing that is kept.
        return eqx.filter(algorithm.own_model(state, kept), is_own)

    return jax.vmap(one)(rows, at)
