"""The compiled round as a long loop calls it.

`algorithm.round` looks at every leaf of its arguments at each call, to see which are
arrays: a fifth of a millisecond, which a small model's round feels. In a loop nothing
but the arrays of the state and of the cohort ever changes, so here the looking is done
once. The old state's memory is given to the new one.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PRNGKeyArray

from .._cohort import Cohort
from .._executor import Executor
from .._tree import Static
from .base import AbstractAlgorithm, check_round, round_step, State


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

    def __init__(self, fixed: Flat, state: Flat):
        self.fixed, self.state = fixed, state
        self._hash = hash((fixed.static, state.static))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Both)
            and self.fixed.static == other.fixed.static
            and self.state.static == other.state.static
        )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(both: Both, fixed: list[Array], state: list[Array], cohort: Cohort):
    algorithm, key, executor = both.fixed.build(fixed)
    new, metrics = round_step(algorithm, both.state.build(state), cohort, key, executor)
    return [x for x in jtu.tree_leaves(new) if eqx.is_array(x)], metrics


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
        self._checked: set[tuple[int, ...]] = set()
        fixed = Flat((algorithm, key, executor))
        self._fixed = fixed.arrays
        self._state = Flat(state)
        self._both = Both(fixed, self._state)
        # Where the compiled round will leave the state, or the second round would
        # compile again.
        place = None
        if executor.mesh is not None:
            whole = jax.sharding.PartitionSpec()
            place = jax.sharding.NamedSharding(executor.mesh, whole)
        self._arrays = [
            jax.device_put(jnp.array(x, copy=True), place) for x in self._state.arrays
        ]
        # The jit cache keeps both for good: no array may hang on them.
        fixed.arrays, self._state.arrays = [], []

    def __call__(self, cohort: Cohort) -> tuple[State, dict[str, Array]]:
        shape = cohort.order.shape
        if shape not in self._checked:
            check_round(self._algorithm, cohort, self._executor)
            self._checked.add(shape)
        self._arrays, metrics = _step(self._both, self._fixed, self._arrays, cohort)
        return self._state.build(self._arrays), metrics
