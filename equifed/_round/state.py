"""What is carried from round to round, and where it comes from."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .._types import AggregatorState, ClientState, Model, Params, ServerState
from .._used_up import MESSAGE, UsedUpError


class Beginning(eqx.Module):
    """What an algorithm begins with."""

    params: Params
    """The params as it keeps them: those of the user's model, or several of them."""
    server: ServerState = None
    aggregator: AggregatorState = None
    clients: ClientState = None
    """The state of ONE client. It is that of all of them."""


def begin(
    algorithm: Any,
    params: Params,
    personal: Params,
    *,
    num_clients: int,
    key: PRNGKeyArray | None,
) -> Beginning:
    """What is there before the first round, with what is personal to each client."""
    begun = algorithm.begin(params, num_clients=num_clients, key=key)
    if not jtu.tree_leaves(personal):
        return begun
    clients = algorithm.keep(params, personal, begun)
    return dataclasses.replace(begun, clients=clients)


class State(eqx.Module):
    """All that is carried from round to round: checkpoint this and nothing else."""

    params: Params
    """The leaves that are trained, `None` elsewhere."""
    rest: Model
    """The others, and of personal leaves those that a client begins with."""
    server: ServerState
    aggregator: AggregatorState
    clients: ClientState
    """The clients' states, stacked along a leading axis over the population; inside of
    an algorithm's step, those of the cohort's slots, along (devices, slots)."""
    round: Int[Array, ""]
    """How many rounds have been run."""
    statistics: PyTree = None
    """What is averaged over the clients and not trained: the arrays of an
    `equinox.nn.State`, under a [`equifed.Stateful`][] loss; else `None`."""

    @property
    def model(self) -> Model:
        return eqx.combine(self.params, self.others)

    @property
    def others(self) -> Model:
        """All of the model that is not trained."""
        if self.statistics is None:
            return self.rest
        return eqx.combine(self.statistics, self.rest)

    def __getattr__(self, name: str) -> Any:
        # Where a field is looked for that is not there.
        if name in self.__dataclass_fields__ or name == "model":
            raise UsedUpError(f"This state {MESSAGE.format('state')}")
        raise AttributeError(f"A `State` has no `{name}`.")


def repeat(x: PyTree[Array], count: int) -> PyTree[Array]:
    """Stacks copies of each array, each spread over devices as the array is."""
    arrays, treedef = jtu.tree_flatten(x)
    stacked = map(_spread_as, _repeated(arrays, count), arrays)
    return jtu.tree_unflatten(treedef, stacked)


@functools.partial(jax.jit, static_argnums=1)
def _repeated(arrays: list[Array], count: int) -> list[Array]:
    return [jnp.broadcast_to(x, (count, *x.shape)) for x in arrays]


def _spread_as(stacked: Array, x: Array) -> Array:
    sharding = getattr(x, "sharding", None)  # what is traced by `jax.jit` has none
    if not isinstance(sharding, NamedSharding):
        return stacked
    place = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
    return jax.device_put(stacked, place)
