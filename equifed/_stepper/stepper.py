"""The compiled round as a long loop calls it.

`algorithm.round` looks at every leaf of its arguments at each call, to see which are
arrays: a fifth of a millisecond, which a small model's round feels. In a loop nothing
but the arrays of the state and of the cohort ever changes, so here the looking is done
once. The old state's memory is given to the new one. And where a round is shorter than
what it takes to start it, one call can run several.
"""

import collections
import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from .._algorithm import AbstractAlgorithm
from .._cohort import Cohort, Cohorts
from .._compiled import compiled, FlatTree, Options
from .._copy import tree_copy
from .._executor import Executor
from .._interrupt import uninterrupted
from .._loop import traced_once
from .._round.apart import one_round_apart, runs_apart, several_rounds_apart
from .._round.check import check_round
from .._round.state import State
from .._round.step import (
    Fixed,
    one_round,
    one_round_of_slots,
    sharding_over,
    taken_apart,
)
from .._store import AbstractMover, mover, store_of
from .._tree import tree_zeros_like
from .._used_up import use_up
from .compile import compiler_options


def several_rounds(
    fixed: Fixed,
    state: State,
    cohorts: Cohorts,
    count: Int[Array, ""],
    stop: Bool[Array, ""],
) -> tuple[list[Array], dict[str, Any], Int[Array, ""]]:
    """The first `count` of the stacked rounds; if `stop`, up to the first whose model
    is not finite."""
    start = FlatTree(state)

    def one(arrays, cohort):
        return one_round(fixed, start.build(arrays), cohort)

    one, (_, metrics) = traced_once(one, start.arrays, cohorts[0])
    size = cohorts.num_rounds
    metrics = jtu.tree_map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), metrics
    )

    def go_on(carry):
        i, _, metrics = carry
        return (i < count) & ~(stop & (metrics["nonfinite_model"].sum() > 0))

    def body(carry):
        i, arrays, metrics = carry
        arrays, new = one(arrays, cohorts[i])
        metrics = jtu.tree_map(lambda m, x: m.at[i].set(x), metrics, new)
        return i + 1, arrays, metrics

    carry = (jnp.zeros_like(count), start.arrays, tree_zeros_like(metrics))
    ran, arrays, metrics = jax.lax.while_loop(go_on, body, carry)
    return arrays, metrics, ran


_APART = {
    one_round: one_round_apart,
    one_round_of_slots: one_round_apart,
    several_rounds: several_rounds_apart,
}


class Stepper:
    """Calls one compiled round again and again.

    The cohorts must be of the mesh. The state that it is given is copied, but for its
    `rest`; each state that it returns is used up by the next call. Whatever may
    interrupt a call, `state` is what was reached: either the state before it, or the
    one after it.

    The states of a round's clients are brought to its program and put back after it,
    wherever those of all lie. What has to wait for the round's end is put back once it
    is wanted: by the next call, by `ahead`, or by whoever asks for `state`.
    """

    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        state: State,
        *,
        key: PRNGKeyArray,
        executor: Executor,
        mesh: Mesh | None,
        keeps: bool = True,
        several: bool = False,
    ):
        """**Arguments:**

        - `keeps`: whether what clients keep is written where it lies, if that is not
            on the device.
        - `several`: whether calls run several rounds, and find all clients' states in
            the state.
        """
        self._algorithm, self._executor = algorithm, executor
        self._apart = runs_apart(executor, mesh, algorithm, state, key)
        self._model = eqx.filter_eval_shape(algorithm.model, state)
        self._options: Options | None = None
        self._programs: dict[Hashable, Callable] = {}
        self._store = store_of(state.clients)
        self._moving: AbstractMover | None = None
        self._put_back: tuple = ()
        if self._store is not None:
            self._store.place.begin()
        if jtu.tree_leaves(state.clients) and not several:
            clients = state.clients
            if self._store is None:
                clients = _placed(tree_copy(clients), mesh)
            self._moving = mover(clients, mesh, writes=keeps, donate=True)
            state = dataclasses.replace(state, clients=None)
        self._rest = _placed(state.rest, mesh)
        state = dataclasses.replace(state, rest=self._rest)
        self._fixed, self._state = taken_apart(algorithm, state, key, executor, mesh)
        arrays = _placed(tree_copy(self._state.arrays), mesh)
        self._state.arrays = []  # The caller may let go of them.
        # The result of the last call: it takes the place of the one before.
        self._given: State | None = None
        self._uninterrupted = uninterrupted()
        self._last: collections.deque[tuple] = collections.deque([(arrays,)], maxlen=1)

    @property
    def state(self) -> State:
        """What was reached."""
        self._put()
        return self._built()

    def _built(self) -> State:
        state = self._state.build(self._last[-1][0])
        state = dataclasses.replace(state, rest=self._rest)
        if self._moving is None:
            return state
        return dataclasses.replace(state, clients=self._moving.states)

    @property
    def last(self) -> tuple[Any, ...]:
        """What the last call returned beside the state, if there was one."""
        done = self._last[-1][1:]
        return done if self._moving is None else done[:1]

    def __call__(self, cohort: Cohort) -> tuple[State, dict[str, Any]]:
        """Runs one round."""
        if self._moving is None:
            program = self._prepare(one_round, cohort, cohort)
            return self._run(program, cohort)
        self._put()
        slots = self._moving.take(cohort.index)
        program = self._prepare(one_round_of_slots, cohort, cohort, slots)
        return self._run(program, cohort, slots)[:2]

    def ahead(self, following: Callable[[], Cohort | None]) -> None:
        """Tells of the next round's cohort while this one is running, and waits for
        what its clients keep; nothing, if that is on the device."""
        if self._moving is not None and self._moving.waits:
            cohort = following()
            if cohort is not None:
                self._moving.ahead(cohort.index)
            self._put()

    def finish(self) -> None:
        """What clients keep is whole where it lies, and can still be read."""
        self._put()
        if self._store is not None:
            self._store.place.finish()

    def _put(self) -> None:
        """Puts back what came of the last call, once."""
        done = self._last[-1]
        if self._moving is None or len(done) < 3 or self._put_back is done:
            return
        with uninterrupted():
            self._put_back = done
            self._moving.put(*done[2])

    def several(
        self, cohorts: Cohorts, count: int, *, stop: bool
    ) -> tuple[State, dict[str, Any], Array]:
        """Runs the first `count` of several rounds; if `stop`, up to the first whose
        model is not finite.

        **Returns:**

        The state after them, their metrics stacked, and how many were run.
        """
        rest = (cohorts, np.int32(count), stop)
        program = self._prepare(several_rounds, cohorts, *rest)
        return self._run(program, *rest)

    def _run(self, program: Callable, *rest: Any) -> Any:
        arrays = (self._last[-1][0],)
        with self._uninterrupted:
            # The program uses up the arrays, so its result must be put in their place
            # before anything can come between: by one call, inside of which Python
            # does not look for signals.
            calls = map(program, (self._fixed.arrays,), arrays, *zip(rest))
            self._last.extend(calls)
            if self._moving is not None and not self._moving.waits:
                self._put()
            if self._given is not None:
                use_up(self._given)
            self._given = self._built()
        return self._given, *self._last[-1][1:]

    def _trace(self, *rest: Any) -> Any:
        function = one_round if self._moving is None else one_round_of_slots
        program: Any = compiled(function, self._fixed, self._state)
        return program.trace(self._fixed.arrays, self._last[-1][0], *rest).jaxpr

    def _prepare(self, function: Callable, cohort: Cohort | Cohorts, *rest: Any):
        shapes = (function, cohort.order.shape, cohort.index.shape)
        program = self._programs.get(shapes)
        if program is None:
            one = cohort[0] if isinstance(cohort, Cohorts) else cohort
            check_round(self._algorithm, one, self._executor)
            if self._options is None:
                loss = self._algorithm.loss
                given = (one, *rest[1:]) if self._moving is not None else (one,)
                options = compiler_options(
                    loss, self._model, one, lambda: self._trace(*given)
                )
                self._options = tuple(sorted(options.items()))
            if self._apart:
                # Several programs, which come to be compiled one after another within
                # the first call: Ctrl-C waits for the end of that.
                program = _APART[function](
                    self._fixed, self._state, donate=True, options=self._options
                )
                self._programs[shapes] = program
                return program
            donate = (1,) if self._moving is None else (1, 3)
            program = compiled(
                function,
                self._fixed,
                self._state,
                donate=donate,
                options=self._options,
            )
            # Compiled here, so that Ctrl-C does not wait for the round as well.
            program.lower(self._fixed.arrays, self._last[-1][0], *rest).compile()
            self._programs[shapes] = program
        return program


def _placed(x: PyTree, mesh: Mesh | None) -> PyTree:
    """Arrays where the rounds want them. On devices that have one, it is not copied."""
    if mesh is None:
        return x
    return jtu.tree_map(
        lambda a: jax.device_put(a, sharding_over(mesh, a)) if eqx.is_array(a) else a, x
    )
