"""What is carried from round to round."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from .._types import AggregatorState, ClientState, Model, ServerState
from .._used_up import MESSAGE, UsedUpError


class State(eqx.Module):
    """All that is carried from round to round: checkpoint this and nothing else."""

    model: Model
    server: ServerState
    aggregator: AggregatorState
    clients: ClientState
    """The clients' states, stacked along a leading axis over the population."""
    round: Int[Array, ""]
    """How many rounds have been run."""

    def __getattr__(self, name: str) -> Any:
        # Where a field is looked for that is not there.
        if name in self.__dataclass_fields__:
            raise UsedUpError(f"This state {MESSAGE.format('state')}")
        raise AttributeError(f"A `State` has no `{name}`.")


def repeat(x: Array, count: int) -> Array:
    """Stacks copies of `x`, each spread over devices as `x` is."""
    stacked = jnp.broadcast_to(x, (count, *x.shape)).copy()
    if isinstance(x.sharding, NamedSharding):
        place = NamedSharding(x.sharding.mesh, PartitionSpec(None, *x.sharding.spec))
        stacked = jax.device_put(stacked, place)
    return stacked


def scatter(states: ClientState, index: Array, new: ClientState) -> ClientState:
    """The clients' states, with new ones for those with these numbers."""
    return jtu.tree_map(lambda x, y: x.at[index].set(y, mode="drop"), states, new)
