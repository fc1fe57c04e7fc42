"""A pass as a plain loop in Python, one client after another: to find a mistake in.

It gives what the compiled pass gives, up to the last bits, in hundreds of times the
time. Whatever the mesh, all runs where the arrays are.
"""

import dataclasses

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .._cohort import Cohort, NO_CLIENT
from .._debug import name_of, noted
from .._tree import tree_zeros_like
from .._types import ClientState
from .blocks import Pass
from .executor import Executor
from .in_order import in_order


def run_one_by_one(
    work: Pass, executor: Executor, cohort: Cohort, states: ClientState
) -> tuple[PyTree, ClientState]:
    """Runs every client of the cohort: as `run_pass`, in Python."""
    index = np.asarray(cohort.index)
    slots = [tuple(map(int, x)) for x in np.argwhere(index != NO_CLIENT)]
    kept: dict[tuple[int, ...], PyTree] = {}
    # With nobody there the form of what is summed must be known all the same.
    for place in slots or [(0, 0)]:
        device, slot = place
        data = cohort.client(slot, device=device)
        data = dataclasses.replace(data, round=work.round)
        state = jtu.tree_map(lambda x, p=place: x[p], states)
        who = name_of(int(index[place]))
        with noted(lambda who=who: f"It was raised for {who}."):
            kept[place], state = work.one(data, cohort.index[place], state)
        states = jtu.tree_map(lambda x, y, p=place: x.at[p].set(y), states, state)
    if not work.aggregator.gathers:
        first, *others = kept.values()
        for other in others:
            first = jtu.tree_map(jnp.add, first, other)
        return first, states
    nothing = tree_zeros_like(next(iter(kept.values())))
    rows = [kept.get(place, nothing) for place in np.ndindex(index.shape)]
    stacked = jtu.tree_map(lambda *x: jnp.stack(x), *rows)
    numbers, count = cohort.index.reshape(-1), index.size
    return in_order(stacked, numbers, None, capacity=count, count=count), states
