"""One round, as it is traced: how it begins, its clients, and how it ends."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .._aggregator import AbstractAggregator
from .._client import (
    AbstractClient,
    Broadcast,
    FullGradient,
    LocalSGD,
    Normalized,
)
from .._client.reach import only, reached
from .._cohort import Cohort, NO_CLIENT
from .._compiled import Flat
from .._contract import check_decoded, check_server, check_state
from .._executor import Executor
from .._metrics import AbstractMetric, add_metrics, compute_metrics, Sum
from .._noise import fold_noise
from .._posterior import EPClient, PosteriorClient
from .._server import AbstractServer
from .._tree import split_params, tree_isfinite, tree_where
from .._types import ClientState, Example, Model, Params
from .state import scatter, State


Parts = tuple[AbstractClient, AbstractAggregator, AbstractServer]

# The clients that move the params along the gradient of their loss and no other way.
_DESCEND = (LocalSGD, FullGradient, Normalized, PosteriorClient, EPClient)


def begin(
    parts: Parts, state: State, key: PRNGKeyArray
) -> tuple[Broadcast, PRNGKeyArray]:
    """What goes down to the clients, and their key."""
    client, aggregator, server = parts
    states = (state.server, state.aggregator, state.clients)
    check_state(client, aggregator, server, state.model, states)
    client_key, _, server_key = _keys(state, key)
    server = fold_noise(server, server_key)
    params, _ = split_params(state.model)
    return Broadcast(state.model, server.broadcast(params, state.server)), client_key


def finish(
    parts: Parts,
    state: State,
    encoded: PyTree,
    metrics: dict[str, AbstractMetric],
    example: Example,
    *,
    key: PRNGKeyArray,
) -> tuple[State, Bool[Array, ""], dict[str, Float[Array, "..."]]]:
    """The new state, with the clients' part as it was, whether the round is accepted,
    and the round's metrics."""
    client, aggregator, server = parts
    _, aggregator_key, server_key = _keys(state, key)
    # Noise that the server's optimiser draws follows from the experiment's key.
    server = fold_noise(server, server_key)
    state_of_server = fold_noise(state.server, server_key)
    params, static = split_params(state.model)
    out = aggregator.decode(encoded, state.aggregator, key=aggregator_key)
    aggregate, aggregator_state = check_decoded(aggregator, out, state.aggregator)
    out = server.round(params, aggregate, state_of_server)
    new_params, server_state = check_server(server, out, params, state_of_server)
    new_params = _only_trained(client, state.model, example, new_params, params)

    finite = tree_isfinite((new_params, server_state))
    accept = finite & (aggregate.count > 0)
    new_params, server_state, aggregator_state = tree_where(
        accept,
        (new_params, server_state, aggregator_state),
        (params, state.server, state.aggregator),
    )
    nonfinite = Sum((~finite).astype(jnp.float32))
    metrics = add_metrics(
        metrics, {"clients": Sum(aggregate.count), "nonfinite_model": nonfinite}
    )
    new = State(
        eqx.combine(new_params, static),
        server_state,
        aggregator_state,
        state.clients,
        state.round + 1,
    )
    return new, accept, compute_metrics(metrics)


def keep(
    states: ClientState, index: Array, new: ClientState, accept: Bool[Array, ""]
) -> ClientState:
    """The states of all clients, with the new ones of those who took part."""
    index = jnp.where(accept, index.reshape(-1), NO_CLIENT)
    return scatter(states, index, new)


def example_of(cohort: Cohort) -> Example:
    """The shape and dtype of one example."""
    return jtu.tree_map(
        lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), cohort.examples
    )


def round_step(
    algorithm: Any, state: State, cohort: Cohort, key: PRNGKeyArray, executor: Executor
) -> tuple[State, dict[str, Float[Array, "..."]]]:
    """One round in one program."""
    client, aggregator, server = parts = parts_of(algorithm)
    broadcast, client_key = begin(parts, state, key)
    encoded, client_states, metrics = executor.run(
        client,
        aggregator,
        broadcast,
        cohort,
        state.clients,
        state.aggregator,
        key=client_key,
    )
    new, accept, metrics = finish(
        parts, state, encoded, metrics, example_of(cohort), key=key
    )
    clients = keep(state.clients, cohort.index, client_states, accept)
    return dataclasses.replace(new, clients=clients), metrics


def parts_of(algorithm: Any) -> Parts:
    return algorithm.client, algorithm.aggregator, algorithm.server


def _keys(state: State, key: PRNGKeyArray) -> tuple[PRNGKeyArray, ...]:
    """The round's keys: of the clients, the aggregator and the server."""
    keys = jr.split(jr.fold_in(key, state.round), 3)
    return keys[0], keys[1], keys[2]


def _only_trained(
    client: AbstractClient, model: Model, example: Example, new: Params, old: Params
) -> Params:
    """The server's optimiser does not move what the clients do not train either."""
    if not isinstance(client, _DESCEND):
        return new
    return only(reached(client.loss, model, example), new, old)


Fixed = tuple[Any, PRNGKeyArray, Executor, tuple[NamedSharding, ...] | None]


def one_round(
    fixed: Fixed, state: State, cohort: Cohort
) -> tuple[list[Array], dict[str, Array]]:
    """One round, as it is compiled: of the new state only the arrays are computed.

    `fixed` is what is the same in all rounds: the algorithm, the key, the executor,
    and how the state's arrays lie over a mesh.
    """
    algorithm, key, executor, shardings = fixed
    new_state, metrics = round_step(algorithm, state, cohort, key, executor)
    new = Flat(new_state)
    if shardings is None:
        return new.arrays, metrics
    # Left where it was, or the next round would compile again.
    constrain = jax.lax.with_sharding_constraint
    return list(map(constrain, new.arrays, shardings)), metrics
