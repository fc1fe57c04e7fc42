"""A round is traced once, with its passes left open, and kept for all rounds alike."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.tree_util as jtu
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._cohort import Cohort
from .._compiled import compiled, FlatTree, kept, Key, Options
from .._executor import Executor, Participants
from .._executor.blocks import Pass, resized, run_device
from .._types import ClientState
from .segments import Call, CannotCut, Segments
from .state import State
from .step import guarded_step


Pass_ = Callable[[Pass, Cohort, ClientState], tuple[PyTree, ClientState]]


class Recorded:
    """A traced round. It is called with what it was traced from, or the like."""

    def __init__(
        self,
        key: Key,
        flats: tuple[FlatTree, ...],
        executor: Executor,
        capacity: int,
        options: Options,
    ):
        self._key, self._executor = key, executor
        self._capacity, self._options = capacity, options
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in _arrays(flats)]
        self._flats, self.result = [f.weak(key) for f in flats], FlatTree(None)
        self.segments = Segments(self._round, shapes, options)

    def __call__(
        self, given: tuple[Any, ...], run_pass: Pass_, run_program: Callable
    ) -> Any:
        def one_pass(flat: FlatTree, arrays: list[Array]) -> list[Array]:
            return FlatTree(run_pass(*flat.strong().build(arrays))).arrays

        return self.run(given, one_pass, run_program)

    def run(
        self, given: tuple[Any, ...], run_pass: Callable, run_program: Callable
    ) -> Any:
        """The same with passes of arrays: given what one is taken apart, and its
        inputs; they are handed on as they are, and so is what comes back."""
        arrays = _arrays(tuple(FlatTree(x) for x in given))
        out = self.segments(arrays, run_pass, run_program)
        return self.result.strong().build(out)

    def _round(self, *arrays: Array) -> list[Array]:
        rest, parts = list(arrays), []
        for flat in self._flats:
            own = [rest.pop(0) for _ in range(flat.size)]
            parts.append(flat.strong().build(own))
        algorithm, state, cohort, key = parts
        clients = Participants(self._executor, cohort, state.round, self._pass)
        result = FlatTree(guarded_step(algorithm, state, clients, key))
        self.result = result.weak(self._key)
        return result.arrays

    def _pass(
        self, work: Pass, executor: Executor, cohort: Cohort, states: ClientState
    ) -> tuple[PyTree, ClientState]:
        """Stands for a pass: what goes in, and the shapes of what comes out."""
        how = (self._capacity, self._options)
        shapes = pass_shapes(work, executor, cohort, states, *how)
        given = FlatTree((work, cohort, states))
        call = Call(given.weak(self._key), shapes)
        return jtu.tree_unflatten(call.structure, call(*given.arrays))


def clients_of_device(
    work: Pass, cohort: Cohort, states: ClientState, executor: Executor
) -> tuple[PyTree, ClientState]:
    """What a device's clients say, and their new states."""
    cohort, states = jtu.tree_map(lambda x: x[0], (cohort, states))
    _, *out = run_device(work, executor, cohort, states, keep=True)
    kept, states = jtu.tree_map(lambda x: x[None], out)
    return kept, states


def pass_shapes(
    work: Pass,
    executor: Executor,
    cohort: Cohort,
    states: ClientState,
    capacity: int,
    options: Options = (),
) -> tuple[tuple[PyTree, PyTree], ClientState]:
    """The shapes of what a pass gives: what was encoded, summed or so many of it, and
    the metrics; and the slots' states, which are like those that it is given."""
    # The trace is the one that a device's program is compiled from.
    share = (work, dataclasses.replace(cohort, mesh=None), states, executor)
    flats = [FlatTree(x) for x in share]
    of_work, *of_slots = [[_shape(x) for x in flat.arrays] for flat in flats[:3]]
    of_slots = [[x.update(shape=(1, *x.shape[1:])) for x in y] for y in of_slots]
    program: Any = compiled(clients_of_device, *flats, options=options)
    (encoded, metrics), _ = jtu.tree_map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
        program.eval_shape(of_work, *of_slots, []),
    )
    axes = (capacity,) if work.aggregator.gathers else ()
    like = jtu.tree_map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), states)
    return (resized(encoded, axes), resized(metrics, ())), like


def _shape(x: Array) -> jax.ShapeDtypeStruct:
    is_weak = getattr(x, "weak_type", False)  # of which keys know nothing
    return jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=is_weak)


def recorded(
    algorithm: Any,
    state: State,
    cohort: Cohort,
    key: PRNGKeyArray,
    executor: Executor,
    capacity: int,
    options: Options,
) -> Recorded:
    """The trace of such a round.

    **Raises:**

    `CannotCut` if its passes lie inside of a loop or a branch.
    """
    flats = tuple(FlatTree(x) for x in (algorithm, state, cohort, key))
    shapes = tuple((x.shape, x.dtype) for x in _arrays(flats))

    def make(key: Key) -> Recorded | CannotCut:
        try:
            return Recorded(key, flats, executor, capacity, options)
        except CannotCut as error:
            return error.with_traceback(None)  # Not to be tried in every round.

    found = kept(make, "round", flats, (shapes, executor, capacity, options))
    if isinstance(found, CannotCut):
        raise found
    return found


def _arrays(flats: tuple[FlatTree, ...]) -> list[Array]:
    return [x for flat in flats for x in flat.arrays]
