"""A round as programs of one device each: what `Executor(ordered=True)` runs.

XLA compiles a program for several devices in another way than one for a single device.
It splits it first, and what comes out of that is simplified and fused differently, so
that products and sums are contracted, and dot products added up, differently too: the
same client ends in another last bit. No order of summation mends that; only the same
machine code does. So here the clients of each device are a program of that device
alone, the same for any number of devices, and so is the server's step. Between them,
programs of all devices only move numbers and add them up in a fixed order.

None of this can be traced: within a user's own `jit`, `vmap` or `grad` a round is one
program after all.
"""

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from .._cohort import Cohort, Cohorts, NO_CLIENT
from .._compiled import compiled, Flat
from .._executor import Executor
from .._in_order import in_order
from .._mesh import AXIS
from .._tree import tree_zeros_like
from .._types import ClientState
from ..data._plan import ladder
from .state import State
from .step import begin, example_of, finish, keep, Parts, parts_of


T = TypeVar("T")
Options = tuple[tuple[str, str], ...]


def runs_apart(executor: Executor, *trees: PyTree) -> bool:
    """Whether a round is asked to run in this way, and can."""
    mesh = executor.mesh
    if not executor.ordered or (
        # Over other axes the clients' own work is spread, too.
        mesh is not None and mesh.size != executor.num_devices
    ):
        return False
    leaves = jtu.tree_leaves(trees)
    return not any(isinstance(x, jax.core.Tracer) for x in leaves)


def one_round_apart(
    fixed: Flat, state: Flat, *, donate: bool = False, options: Options = ()
) -> Callable[[list[Array], list[Array], Cohort], tuple[list[Array], dict]]:
    """What `compiled(one_round, fixed, state)` is to rounds of one program. With
    `donate` the memory of the clients' states is used again."""

    def program(
        numbers: list[Array], arrays: list[Array], cohort: Cohort
    ) -> tuple[list[Array], dict[str, Array]]:
        algorithm, key, executor, _ = fixed.build(numbers)
        new, metrics = _step(
            algorithm, state.build(arrays), cohort, key, executor, options, donate
        )
        return Flat(new).arrays, metrics

    return program


def several_rounds_apart(
    fixed: Flat, state: Flat, *, donate: bool = False, options: Options = ()
) -> Callable[..., tuple[list[Array], dict[str, Array], Array]]:
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
    ) -> tuple[list[Array], dict[str, Array], Array]:
        done: list[dict[str, Array]] = []
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


def _step(
    algorithm: Any,
    state: State,
    cohort: Cohort,
    key: PRNGKeyArray,
    executor: Executor,
    options: Options,
    donate: bool,  # noqa: FBT001
) -> tuple[State, dict[str, Array]]:
    mesh = executor.mesh
    places = [None] if mesh is None else list(range(len(mesh.local_devices)))
    parts, state, key = _everywhere((parts_of(algorithm), state, key), mesh)
    if mesh is not None:
        cohort = jax.device_put(cohort, NamedSharding(mesh, PartitionSpec(AXIS)))

    alone = dataclasses.replace(executor, mesh=None)
    shares = [_on(place, (parts, state, cohort, key)) for place in places]
    done = _side_by_side(_clients, options, [(*share, alone) for share in shares])
    kept, rows = _joined(done, mesh)

    index = cohort.index
    capacity = _capacity(index, mesh) if algorithm.aggregator.gathers else None
    total = _call(_total, (), kept, index, mesh, capacity)

    clients, rest = state.clients, dataclasses.replace(state, clients=None)
    inputs = _on(places[0], (parts, rest, total, key))
    done = _call(_server, options, *inputs, example_of(cohort))
    new, accept, metrics = _everywhere(done, mesh)

    if jtu.tree_leaves(clients):
        scattered = _scatter_in_place if donate else _scatter
        clients = scattered(clients, index, rows, accept, mesh)
    return dataclasses.replace(eqx.combine(new, rest), clients=clients), metrics


def _clients(
    parts: Parts, state: State, cohort: Cohort, key: PRNGKeyArray, executor: Executor
) -> tuple[PyTree, ClientState]:
    """What a device's clients say, and their new states."""
    client, aggregator, _ = parts
    broadcast, key = begin(parts, state, key)
    return executor.messages(
        client, aggregator, broadcast, cohort, state.clients, state.aggregator, key=key
    )


def _total(
    kept: PyTree, index: Int[Array, "devices slots"], mesh: Mesh | None, capacity: Any
) -> PyTree:
    index = index.reshape(-1)
    # A number that is not known beforehand: a sum of one term would lose the zero that
    # it begins with, and with it the sign of another zero.
    count = (index != NO_CLIENT).sum(dtype=index.dtype)
    return in_order(kept, index, mesh, capacity=capacity, count=count)


def _server(
    parts: Parts, state: State, total: PyTree, key: PRNGKeyArray, example: PyTree
) -> tuple[State, Bool[Array, ""], dict[str, Array]]:
    """The arrays of the new state but for the clients', and the metrics."""
    encoded, metrics = total
    new, accept, metrics = finish(parts, state, encoded, metrics, example, key=key)
    return eqx.filter(new, eqx.is_array), accept, metrics


def _scattered(
    clients: ClientState,
    index: Int[Array, "devices slots"],
    rows: ClientState,
    accept: Bool[Array, ""],
    mesh: Mesh | None,
) -> ClientState:
    clients = keep(clients, index, rows, accept)
    if mesh is None:
        return clients
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.lax.with_sharding_constraint(clients, whole)


_scatter = jax.jit(_scattered, static_argnums=4)
_scatter_in_place = jax.jit(_scattered, static_argnums=4, donate_argnums=0)


def _capacity(index: Int[Array, "devices slots"], mesh: Mesh | None) -> int:
    """Room for all messages of this round: more slots on more devices do not show."""
    if mesh is not None and mesh.is_multi_process:
        index = _gathered(index, mesh)
    return ladder(int((np.asarray(index) != NO_CLIENT).sum()))


@functools.partial(jax.jit, static_argnums=1)
def _gathered(x: Array, mesh: Mesh) -> Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec()))


def _everywhere(tree: T, mesh: Mesh | None) -> T:
    """Every array on all devices, whole."""
    if mesh is None:
        return tree
    whole = NamedSharding(mesh, PartitionSpec())
    arrays, rest = eqx.partition(tree, eqx.is_array)
    if not mesh.is_multi_process:
        return eqx.combine(jax.device_put(arrays, whole), rest)

    def put(x: Array) -> Array:
        # No process asks another for what it has itself.
        if x.sharding.is_equivalent_to(whole, x.ndim):
            return x
        own = x.addressable_data(0)
        copies = [jax.device_put(own, device) for device in mesh.local_devices]
        return jax.make_array_from_single_device_arrays(x.shape, whole, copies)

    return eqx.combine(jtu.tree_map(put, arrays), rest)


def _on(place: int | None, tree: T) -> T:
    """What lies on one device of this process."""
    if place is None:
        return tree
    arrays, rest = eqx.partition(tree, eqx.is_array)
    arrays = jtu.tree_map(lambda x: x.addressable_shards[place].data, arrays)
    return eqx.combine(arrays, rest)


def _joined(trees: list[T], mesh: Mesh | None) -> T:
    """What the devices of this process hold of arrays that lie along the mesh."""
    if mesh is None:
        return trees[0]
    split = NamedSharding(mesh, PartitionSpec(AXIS))

    def join(*shards: Array) -> Array:
        shape = (mesh.size * shards[0].shape[0], *shards[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, split, list(shards))

    return jtu.tree_map(join, *trees)


def _call(function: Callable, options: Options, *arguments: Any) -> Any:
    flats = [Flat(x) for x in arguments]
    return compiled(function, *flats, options=options)(*(x.arrays for x in flats))


def _side_by_side(
    function: Callable, options: Options, calls: list[tuple[Any, ...]]
) -> list[Any]:
    """Calls on arrays of one device each, at the same time.

    A CPU runs what it takes for a short program at once, in the thread that asks, so
    each device has a thread. It only compiles, the first time, and runs: JAX's settings
    are those of the thread that traces.
    """
    flats = [Flat(x) for x in calls[0]]
    jitted: Any = compiled(function, *flats, options=options)
    inputs = [[Flat(x).arrays for x in arguments] for arguments in calls]
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
