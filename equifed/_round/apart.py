"""A round as programs of one device each: what `Executor(ordered=True)` runs.

XLA compiles a program for several devices in another way than one for a single device.
It splits it first, and what comes out of that is simplified and fused differently, so
that products and sums are contracted, and dot products added up, differently too: the
same client ends in another last bit. No order of summation mends that; only the same
machine code does. So here the clients of each device are a program of that device
alone, the same for any number of devices, and so is what the algorithm's step computes
between its passes. Around them, programs of all devices only move numbers and add them
up in a fixed order.

None of this can be traced: within a user's own `jit`, `vmap` or `grad` a round is one
program after all, and so is that of a step whose passes lie inside of a loop.
"""

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, PyTree

from .._cohort import Cohort, Cohorts, NO_CLIENT
from .._compiled import compiled, FlatTree, Options
from .._executor import Executor
from .._executor.blocks import Pass
from .._executor.in_order import in_order
from .._mesh import AXIS
from .._store.device import gather, scatter
from .._tree import tree_merge_axes, tree_zeros_like
from .._types import ClientState
from ..data._plan import ladder
from .places import along, everywhere, first, gathered, joined, on
from .record import clients_of_device, recorded
from .segments import CannotCut
from .step import changed, Kept, one_round, one_round_of_slots


T = TypeVar("T")


def runs_apart(executor: Executor, mesh: Mesh | None, *trees: PyTree) -> bool:
    """Whether a round is asked to run in this way, and can."""
    if not executor.ordered or (
        # Over other axes the clients' own work is spread, too.
        mesh is not None and mesh.size != mesh.shape[AXIS]
    ):
        return False
    leaves = jtu.tree_leaves(trees)
    return not any(isinstance(x, jax.core.Tracer) for x in leaves)


def one_round_apart(
    fixed: FlatTree, state: FlatTree, *, donate: bool = False, options: Options = ()
) -> Callable[..., Any]:
    """What `compiled(one_round, fixed, state)` is to rounds of one program, or
    `one_round_of_slots`, if it is called with the slots' states. With `donate` the
    memory of the clients' states is used again."""

    def program(
        numbers: list[Array], arrays: list[Array], cohort: Cohort, *slots: ClientState
    ) -> tuple[list[Array], dict[str, Any]] | tuple[list[Array], dict[str, Any], Kept]:
        algorithm, key, executor, _, rest = fixed.build(numbers)
        mesh = cohort.mesh
        old = dataclasses.replace(state.build(arrays), rest=rest)
        plan = along(cohort, mesh)
        everyone = everywhere(old.clients, mesh)
        gathered = slots or (_gathered_states(everyone, plan.index, mesh),)
        before = dataclasses.replace(old, clients=gathered[0])
        capacity = _capacity(plan.index, mesh)
        try:
            trace = recorded(algorithm, before, plan, key, executor, capacity, options)
        except CannotCut:
            function = one_round_of_slots if slots else one_round
            one = compiled(function, fixed, state, options=options)
            return one(numbers, arrays, cohort, *slots)
        after, metrics, accept = trace(
            (algorithm, before, plan, key),
            lambda work, cohort, states: _pass(
                work, cohort, states, executor, capacity, options
            ),
            lambda function, inputs: function(*(first(x, mesh) for x in inputs)),
        )
        new = dataclasses.replace(after, clients=None, rest=None)
        new, metrics, accept = everywhere((new, metrics, accept), mesh)
        if slots:
            kept = (cohort.index, along(after.clients, mesh), accept)
            return changed(new), metrics, kept
        clients = everyone
        if jtu.tree_leaves(everyone):
            scattered = _scatter_in_place if donate else _scatter
            those = along(after.clients, mesh)
            clients = scattered(everyone, plan.index, those, accept, mesh)
        return changed(dataclasses.replace(new, clients=clients)), metrics

    return program


def several_rounds_apart(
    fixed: FlatTree, state: FlatTree, *, donate: bool = False, options: Options = ()
) -> Callable[..., tuple[list[Array], dict[str, Any], Array]]:
    """The same of several rounds, which are run one by one."""
    # An interrupt between two of them must find the state that was given usable.
    first = one_round_apart(fixed, state, options=options)
    later = one_round_apart(fixed, state, donate=donate, options=options)

    def program(
        numbers: list[Array],
        arrays: list[Array],
        cohorts: Cohorts,
        count: Any,
        stop: Any,
    ) -> tuple[list[Array], dict[str, Any], Array]:
        done: list[dict[str, Any]] = []
        for i in range(int(count)):
            one = later if i > 0 else first
            arrays, metrics = one(numbers, arrays, cohorts[i])
            done.append(metrics)
            if stop and np.asarray(metrics["nonfinite_model"]) > 0:
                break
        ran = len(done)
        done += [tree_zeros_like(done[0])] * (cohorts.num_rounds - ran)
        metrics = jtu.tree_map(lambda *x: jnp.stack(x), *done)
        return arrays, metrics, jnp.asarray(ran, jnp.int32)

    return program


def _pass(
    work: Pass,
    cohort: Cohort,
    states: ClientState,
    executor: Executor,
    capacity: int,
    options: Options,
) -> tuple[PyTree, ClientState]:
    """One pass: the clients of each device, and the sum of what they say."""
    mesh = cohort.mesh
    places = [None] if mesh is None else list(range(len(mesh.local_devices)))
    work = everywhere(work, mesh)
    cohort, states = along((cohort, states), mesh)
    alone = dataclasses.replace(cohort, mesh=None)
    shares = [on(place, (work, alone, states)) for place in places]
    done = side_by_side(
        clients_of_device, options, [(*share, executor) for share in shares]
    )
    kept, states = joined(done, mesh)
    gathers = work.aggregator.gathers
    total = total_of(kept, cohort.index, mesh, capacity if gathers else None)
    return total, states


def total_of(
    kept: PyTree, index: Int[Array, "devices slots"], mesh: Mesh | None, capacity: Any
) -> PyTree:
    """What all clients said, as the aggregator's `decode` wants it, and the metrics."""
    flats = [FlatTree(x) for x in (kept, index, mesh, capacity)]
    return compiled(_total, *flats)(*(x.arrays for x in flats))


def _total(
    kept: PyTree, index: Int[Array, "devices slots"], mesh: Mesh | None, capacity: Any
) -> PyTree:
    index = index.reshape(-1)
    kept = tree_merge_axes(kept)
    # A number that is not known beforehand: a sum of one term would lose the zero that
    # it begins with, and with it the sign of another zero.
    count = (index != NO_CLIENT).sum(dtype=index.dtype)
    return in_order(kept, index, mesh, capacity=capacity, count=count)


@functools.partial(jax.jit, static_argnums=2)
def _gathered_states(
    everyone: ClientState, index: Int[Array, "devices slots"], mesh: Mesh | None
) -> ClientState:
    slots = gather(everyone, index)
    if mesh is None:
        return slots
    split = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.lax.with_sharding_constraint(slots, split)


def _scattered(
    clients: ClientState,
    index: Int[Array, "devices slots"],
    slots: ClientState,
    accept: Bool[Array, ""],
    mesh: Mesh | None,
) -> ClientState:
    clients = scatter(clients, index, slots, accept)
    if mesh is None:
        return clients
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.lax.with_sharding_constraint(clients, whole)


_scatter = jax.jit(_scattered, static_argnums=4)
_scatter_in_place = jax.jit(_scattered, static_argnums=4, donate_argnums=0)


def _capacity(index: Int[Array, "devices slots"], mesh: Mesh | None) -> int:
    """Room for all messages of this round: more slots on more devices do not show."""
    if mesh is not None and mesh.is_multi_process:
        index = gathered(index, mesh)
    return ladder(int((np.asarray(index) != NO_CLIENT).sum()))


def side_by_side(
    function: Callable, options: Options, calls: list[tuple[Any, ...]]
) -> list[Any]:
    """Calls on arrays of one device each, at the same time.

    A CPU runs what it takes for a short program at once, in the thread that asks, so
    each device has a thread. It only compiles, the first time, and runs: JAX's settings
    are those of the thread that traces.
    """
    flats = [FlatTree(x) for x in calls[0]]
    jitted: Any = compiled(function, *flats, options=options)
    inputs = [[FlatTree(x).arrays for x in arguments] for arguments in calls]
    if len(inputs) == 1:
        return [jitted(*inputs[0])]
    # After the first time this only looks them up.
    programs = [jitted.lower(*arrays) for arrays in inputs]

    def run(program: jax.stages.Lowered, arrays: list[list[Array]]) -> PyTree:
        return program.compile()(*arrays)

    return list(_threads(len(inputs)).map(run, programs, inputs))


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="equifed-device")
