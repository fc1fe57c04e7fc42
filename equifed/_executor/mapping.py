"""How a pass over the cohort is spread over devices, as one program.

On each device the same loop runs over that device's slots; what it sums is summed over
the devices as well, and what it keeps is brought into the order of the clients.
"""

import equinox as eqx
import jax
import jax.tree_util as jtu
from jax.sharding import PartitionSpec
from jaxtyping import PyTree

from .._cohort import Cohort
from .._mesh import AXIS
from .._tree import tree_merge_axes
from .._types import ClientState
from .blocks import Pass, run_device
from .executor import Executor
from .in_order import in_order


def run_pass(
    work: Pass, executor: Executor, cohort: Cohort, states: ClientState
) -> tuple[PyTree, ClientState]:
    """Runs every client of the cohort.

    **Arguments:**

    - `states`: the slots' states, with the axes (devices, slots, ...).

    **Returns:**

    What the aggregator's `decode` wants with the metrics, both summed over the cohort;
    and the slots' new states.
    """
    keep, mesh = work.aggregator.gathers or executor.ordered, cohort.mesh
    arrays, static = eqx.partition(work, eqx.is_array)

    def device(
        arrays: PyTree, cohort: Cohort, states: ClientState
    ) -> tuple[PyTree, PyTree, ClientState]:
        work = eqx.combine(arrays, static)
        total, *slots = run_device(work, executor, cohort, states, keep=keep)
        if mesh is not None:
            total = jax.lax.psum(total, AXIS)
        return total, *slots

    def own_device(
        arrays: PyTree, cohort: Cohort, states: ClientState
    ) -> tuple[PyTree, PyTree, ClientState]:
        # Of the axis over devices a device has an entry of its own.
        cohort, states = jtu.tree_map(lambda x: x[0], (cohort, states))
        total, *slots = device(arrays, cohort, states)
        return total, *jtu.tree_map(lambda x: x[None], slots)

    if mesh is None:
        mapped = own_device
    elif executor.differentiable:
        # No derivative is taken through `shard_map`. The compiler splits this over the
        # devices as well, but all wait for the longest.
        mapped = jax.vmap(
            device, in_axes=(None, 0, 0), out_axes=(None, 0, 0), axis_name=AXIS
        )
    else:
        whole, split = PartitionSpec(), PartitionSpec(AXIS)
        # Without the check of which values vary over devices: were the model known to
        # be the same on all of them, `jax.grad` inside a client would sum its
        # gradients over the devices.
        mapped = jax.shard_map(
            own_device,
            mesh=mesh,
            in_specs=(whole, split, split),
            out_specs=(whole, split, split),
            axis_names={AXIS},
            check_vma=False,
        )
    total, kept, states = mapped(arrays, cohort, states)
    if keep:
        index = cohort.index.reshape(-1)
        kept = tree_merge_axes(kept)
        slots = index.size
        capacity = slots if work.aggregator.gathers else None
        total = in_order(kept, index, mesh, capacity=capacity, count=slots)
    return total, states
