"""Six laws in one program.

Each changes how a round is run or what is there that does not count, and the numbers
stay. So all of these changes may be made at once: if the numbers are what they are
without, each of the laws holds. Only if they are not does each compile its own.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float, Key

from .._bits import DOWN, EACH, UP
from .._cohort import Cohort, Cohorts, NO_ROW
from .._compiled import FlatTree
from .._executor import Executor
from .._round import State
from .._stepper.stepper import several_rounds
from .._tree import tree_row
from ..data import Epochs
from ._claim import assert_same
from ._losses import quiet_loss
from ._setup import BATCHING, KEY, quickly, quiet, Setup
from ._spoiled import Sent, silence, spoiled


# As many slots as there are clients, and two more that are run and empty.
BLOCKS = Executor(block_size=4)
WIDE = Epochs(BATCHING.num_epochs, batch_size=BATCHING.batch_size + 2)


def widen(cohort: Cohort) -> Cohort:
    """The cohort with a place at both ends, so that all batches are short."""
    order = jnp.pad(cohort.order, ((0, 0),) * 2 + ((1, 1),), constant_values=NO_ROW)
    return eqx.tree_at(lambda c: c.order, cohort, order)


def scaled(state: State, scale: Array) -> State:
    """The state with its model's params multiplied."""
    params = jtu.tree_map(lambda x: x * scale.astype(x.dtype), state.params)
    return eqx.tree_at(lambda s: s.params, state, params)


def two_experiments() -> tuple[Key[Array, " 2"], Float[Array, " 2"]]:
    """The keys of two, and what each multiplies its model by."""
    return jr.split(jr.key(KEY)), jnp.asarray([1.0, 0.9])


AT_ONCE = ("empty_places", "absent_messages", "ledger")
AT_ONCE += ("block_size", "rounds_per_call", "sweep")


def hold_at_once(here: Setup) -> bool:
    """Whether all of these hold."""
    if here.at_once is None:
        try:
            _check_at_once(here)
        except Exception:  # noqa: BLE001 (it comes again, from one of them)
            here.at_once = False
        else:
            here.at_once = True
    return here.at_once


def _check_at_once(here: Setup) -> None:
    @eqx.filter_vmap(in_axes=(None, None, None, 0, 0))
    def swept(algorithm, state, cohorts, scale, key):
        fixed = (algorithm, key, BLOCKS, None, state.rest)
        given = dataclasses.replace(scaled(state, scale), rest=None)
        count, stop = jnp.asarray(cohorts.num_rounds), jnp.asarray(False)  # noqa: FBT003
        arrays, metrics, _ = several_rounds(fixed, given, cohorts, count, stop)
        after = FlatTree(given).build(arrays)
        return dataclasses.replace(after, rest=state.rest), metrics

    sent, cohorts = Sent(), [quiet(silence(here.cohort(i))) for i in range(2)]
    algorithm = spoiled(here.build(quiet_loss, WIDE), sent)
    keys, scales = two_experiments()
    state, metrics = quickly(swept)(
        algorithm, here.state, _stacked([widen(c) for c in cohorts]), scales, keys
    )
    jax.effects_barrier()
    last = {name: x[:, -1] for name, x in metrics.items()}
    got = state, {n: x for n, x in last.items() if not n.startswith("ledger_")}
    for i in range(2):
        expected = here.run(
            loader=lambda number: cohorts[number],
            state=scaled(here.state, scales[i]),
            key=keys[i],
        )
        assert_same(tree_row(got, i), expected, what="All at once")
        for name in (UP, DOWN):
            one = tree_row(last, i)
            assert int(one[name]) == int(one[EACH[name]].sum())
    assert sent.bits[1] == sum(int(tree_row(last, i)[UP]) for i in range(2))


def _stacked(cohorts: list[Cohort]) -> Cohorts:
    names = ("order", "start", "stop", "first", "num_examples", "index", "info")
    plans = [{name: getattr(c, name) for name in names} for c in cohorts]
    plan = jtu.tree_map(lambda *x: jnp.asarray(np.stack(x)), *plans)
    return Cohorts(cohorts[0].examples, pooled=False, **plan)
