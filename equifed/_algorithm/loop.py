"""The compiled round as a long loop calls it.

`algorithm.round` looks at every leaf of its arguments at each call, to see which are
arrays: a fifth of a millisecond, which a small model's round feels. In a loop nothing
but the arrays of the state and of the cohort ever changes, so here the looking is done
once. The old state's memory is given to the new one. And where a round is shorter than
what it takes to start it, one call can run several.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from .._cohort import Cohort, Cohorts
from .._executor import Executor
from .._tree import Static, tree_zeros_like
from .base import AbstractAlgorithm, check_round, round_step, State
from .compile import compiler_options


class Flat:
    """A PyTree taken apart into its arrays, which change, and the rest."""

    def __init__(self, tree: object):
        leaves, self._treedef = jtu.tree_flatten(tree)
        self._places = [i for i, x in enumerate(leaves) if eqx.is_array(x)]
        self.arrays: list[Array] = [leaves[i] for i in self._places]
        for i in self._places:
            leaves[i] = None
        self._leaves = leaves
        self.static = Static((tuple(leaves), self._treedef))

    def build(self, arrays: list[Array]):
        leaves = list(self._leaves)
        for place, array in zip(self._places, arrays, strict=True):
            leaves[place] = array
        return jtu.tree_unflatten(self._treedef, leaves)


class Both:
    """What is traced, hashed once."""

    def __init__(
        self, fixed: Flat, state: Flat, shardings: tuple[NamedSharding, ...] | None
    ):
        self.fixed, self.state, self.shardings = fixed, state, shardings
        self._hash = hash((fixed.static, state.static, shardings))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Both)
            and self.fixed.static == other.fixed.static
            and self.state.static == other.state.static
            and self.shardings == other.shardings
        )

    def round(self, fixed: list[Array], state: list[Array], cohort: Cohort):
        algorithm, key, executor = self.fixed.build(fixed)
        new, metrics = round_step(
            algorithm, self.state.build(state), cohort, key, executor
        )
        arrays = [x for x in jtu.tree_leaves(new) if eqx.is_array(x)]
        if self.shardings is not None:
            # Left where it was, or the next round would compile again.
            constrain = jax.lax.with_sharding_constraint
            arrays = [
                constrain(x, s) for x, s in zip(arrays, self.shardings, strict=True)
            ]
        return arrays, metrics


def _one(both: Both, fixed: list[Array], state: list[Array], cohort: Cohort):
    return both.round(fixed, state, cohort)


def _several(
    both: Both,
    fixed: list[Array],
    state: list[Array],
    cohorts: Cohorts,
    count: Int[Array, ""],
    stop: Bool[Array, ""],
):
    """The first `count` of the stacked rounds; if `stop`, up to the first whose model
    is not finite."""
    metrics = jax.eval_shape(both.round, fixed, state, cohorts[0])[1]
    size = cohorts.num_rounds
    metrics = jtu.tree_map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), metrics
    )

    def go_on(carry):
        i, _, metrics = carry
        return (i < count) & ~(stop & (metrics["nonfinite_model"].sum() > 0))

    def body(carry):
        i, state, metrics = carry
        state, new = both.round(fixed, state, cohorts[i])
        metrics = jtu.tree_map(lambda m, x: m.at[i].set(x), metrics, new)
        return i + 1, state, metrics

    carry = (jnp.zeros_like(count), state, tree_zeros_like(metrics))
    ran, state, metrics = jax.lax.while_loop(go_on, body, carry)
    return state, metrics, ran


@functools.cache
def _jitted(function, options: tuple[tuple[str, str], ...]):
    return jax.jit(
        function,
        static_argnums=0,
        donate_argnums=2,
        compiler_options=dict(options) or None,
    )


class Stepper:
    """Calls one compiled round again and again.

    The state that it is given is copied; each state that it returns is used up by the
    next call.
    """

    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        state: State,
        *,
        key: PRNGKeyArray,
        executor: Executor,
    ):
        self._algorithm, self._executor = algorithm, executor
        self._model = eqx.filter_eval_shape(lambda: state.model)
        self._options: tuple[tuple[str, str], ...] | None = None
        self._checked: set[tuple[int, ...]] = set()
        fixed = Flat((algorithm, key, executor))
        self._fixed = fixed.arrays
        self._state = Flat(state)
        shardings = None
        if executor.mesh is not None:
            mesh = executor.mesh
            shardings = tuple(_sharding(x, mesh) for x in self._state.arrays)
        self._both = Both(fixed, self._state, shardings)
        places = shardings or [None] * len(self._state.arrays)
        self._arrays = [
            jax.device_put(jnp.array(x, copy=True), place)
            for x, place in zip(self._state.arrays, places, strict=True)
        ]
        # The jit cache keeps both for good: no array may hang on them.
        fixed.arrays, self._state.arrays = [], []

    def __call__(self, cohort: Cohort) -> tuple[State, dict[str, Array]]:
        """Runs one round."""
        step = self._prepare(_one, cohort.order.shape, cohort)
        self._arrays, metrics = step(self._both, self._fixed, self._arrays, cohort)
        return self._state.build(self._arrays), metrics

    def several(
        self, cohorts: Cohorts, count: int, *, stop: bool
    ) -> tuple[State, dict[str, Array], Array]:
        """Runs the first `count` of several rounds; if `stop`, up to the first whose
        model is not finite.

        **Returns:**

        The state after them, their metrics stacked, and how many were run.
        """
        step = self._prepare(_several, cohorts.order.shape, cohorts)
        self._arrays, metrics, ran = step(
            self._both, self._fixed, self._arrays, cohorts, np.int32(count), stop
        )
        return self._state.build(self._arrays), metrics, ran

    def _prepare(self, function, shape: tuple[int, ...], cohort: Cohort | Cohorts):
        if shape not in self._checked:
            one = cohort[0] if isinstance(cohort, Cohorts) else cohort
            check_round(self._algorithm, one, self._executor)
            self._checked.add(shape)
            if self._options is None:
                loss = self._algorithm.client.loss
                options = compiler_options(loss, self._model, one)
                self._options = tuple(sorted(options.items()))
        assert self._options is not None
        return _jitted(function, self._options)


def _sharding(x: Array, mesh: Mesh) -> NamedSharding:
    """How an array of the state lies over the mesh: split as the user has split it."""
    old, spec = x.sharding, PartitionSpec()
    if isinstance(old, NamedSharding) and old.mesh.shape == mesh.shape:
        spec = old.spec
    return NamedSharding(mesh, spec)
