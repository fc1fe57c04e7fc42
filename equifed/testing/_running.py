"""Laws of how a round is run: it does not change what is computed."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from .._cohort import Cohort, NO_ROW
from .._executor import Executor
from .._round.step import round_step
from .._training import rounds
from .._tree import tree_row
from ._at_once import BLOCKS, hold_at_once, scaled, two_experiments
from ._claim import assert_same, law
from ._clients import law_loader, SIZES
from ._setup import (
    KEY,
    placed,
    quickly,
    quiet,
    Result,
    Setup,
    slots_of,
    with_slots,
)


@law
def permutation(here: Setup) -> None:
    """The order of the slots does not matter.

    A client may not look at its place in the plan.
    """

    def permute(cohort: Cohort) -> Cohort:
        order = np.random.default_rng(0).permutation(cohort.num_slots)
        slots = slots_of(cohort)
        return with_slots(cohort, [x[:, order] for x in slots])

    assert_same(here.run(permute), here.expected, what="In another order")


@law
def empty_slots(here: Setup) -> None:
    """An empty slot is as if absent."""

    def scatter(cohort: Cohort) -> Cohort:
        # Those at the end are not run at all. Among the others, and pointing at
        # somebody's examples, they are.
        # In the middle the one, at the front the other, which has moved the rest back.
        order = jnp.roll(jnp.arange(cohort.num_slots), 1)
        *moved, index = [x[:, order] for x in slots_of(cohort)]
        empty = index == index.max()
        moved = [jnp.where(empty, x[:, -1:], x) for x in moved]
        return with_slots(cohort, [*moved, index])

    assert_same(here.run(scatter), here.expected, what="With some among the others")


@law
def block_size(here: Setup) -> None:
    """How many clients run side by side does not matter."""
    if hold_at_once(here):
        return
    got = here.run(algorithm=here.quiet, executor=BLOCKS)
    assert_same(got, here.expected_quiet, what="In blocks of 4")


@law
def rounds_per_call(here: Setup) -> None:
    """How many rounds one call runs does not matter."""
    if hold_at_once(here):
        return
    ((state, metrics),) = rounds(
        here.quiet,
        here.state,
        here.loader,
        num_rounds=2,
        key=jr.key(KEY),
        rounds_per_call=2,
    )
    got = state, {name: x[-1] for name, x in metrics.items()}
    assert_same(got, here.expected_quiet, what="With two rounds in one call")


@law
def ordered(here: Setup) -> None:
    """Summing in order changes no more than last bits."""
    assert_same(here.expected_in_order, here.expected, what="With sums in order")


@law
def differentiable(here: Setup) -> None:
    """A differentiable round computes the same, and its gradient is right.

    Loops of a client must be `data.fold` and `data.fold_examples`. What rounds or takes
    signs has no useful gradient: then skip this law.
    """
    cohort = quiet(here.cohort(0))
    begun, _ = here.algorithm.round(here.state, cohort, key=jr.key(KEY))
    cohort = quiet(here.cohort(1))

    def look(result: Result) -> Array:
        """One number in which all of the new model is seen."""
        state, metrics = result
        models = here.algorithm.models(state) or state.params
        params = jtu.tree_leaves(eqx.filter(models, eqx.is_inexact_array))
        weights = [
            jnp.linspace(0.5, 1.5, x.size, dtype=x.dtype).reshape(x.shape)
            for x in params
        ]
        return metrics["loss"] + sum(map(jnp.vdot, weights, params))

    @eqx.filter_value_and_grad
    def value_and_slope(scale: Array, algorithm, state, cohort) -> Array:
        executor, state = Executor(differentiable=True), scaled(state, scale)
        return look(round_step(algorithm, state, cohort, jr.key(KEY), executor))

    def value(scale: Array) -> Array:
        state = scaled(begun, scale)
        return look(here.algorithm.round(state, cohort, key=jr.key(KEY)))

    one, step = jnp.asarray(1.0), 1e-2
    got, slope = quickly(value_and_slope)(one, here.quiet, begun, cohort)
    assert np.isclose(got, value(one), rtol=1e-4, atol=1e-5), (
        f"It gives {got:.7g} where the plain round gives {value(one):.7g}."
    )
    finite = (value(one + step) - value(one - step)) / (2 * step)
    assert np.isclose(slope, finite, rtol=2e-2, atol=2e-3), (
        f"A derivative is {slope:.5g}, and by finite differences {finite:.5g}."
    )


@law
def streamed(here: Setup) -> None:
    """Whether the examples are resident does not matter.

    A client may not look at its place in the pool.
    """
    stream = law_loader(here.algorithm.batching, resident=False)
    got = here.run(_elsewhere, loader=lambda number: here.cohort(number, stream))
    assert_same(got, here.expected, what="Streamed")


def _elsewhere(cohort: Cohort) -> Cohort:
    """The same cohort, with the first client's examples at the end of the pool: a
    streamed pool holds them in an order of its own."""
    size = sum(SIZES)
    order = np.roll(np.arange(size), -SIZES[0])

    def move(row: Array) -> Array:
        rows = np.asarray(row)
        return jnp.asarray(np.where(rows < 0, rows, (rows - SIZES[0]) % size))

    examples = jtu.tree_map(
        lambda x: jnp.asarray(np.asarray(x)[:, order]), cohort.examples
    )
    where = lambda c: (c.examples, c.order, c.first)  # noqa: E731
    moved = (examples, move(cohort.order), move(cohort.first))
    return eqx.tree_at(where, cohort, moved)


@law
def devices(here: Setup) -> None:
    """The number of devices does not matter: ordered rounds have the same bits."""
    # Each of them compiles what it runs: two see what more would.
    count = min(jax.device_count(), 2)
    mesh = jax.make_mesh((count,), ("clients",), devices=jax.devices()[:count])
    split = law_loader(here.algorithm.batching, mesh=mesh)
    assert split.mesh is not None
    along = NamedSharding(split.mesh, PartitionSpec("clients"))
    everywhere = NamedSharding(split.mesh, PartitionSpec())

    def roomy(number: int) -> Cohort:
        # As many slots and steps on each as there are on one device alone: what was
        # compiled for that is what the first of them runs.
        cohort, steps = here.cohort(number, split), here.cohort(number).order.shape[1]
        order = np.asarray(cohort.order)
        fill = ((0, 0), (0, steps - order.shape[1]), (0, 0))
        order = np.pad(order, fill, constant_values=NO_ROW)
        cohort = eqx.tree_at(lambda c: c.order, cohort, jnp.asarray(order))
        return placed(cohort, along)

    got = here.run(
        algorithm=here.plain,
        executor=Executor(ordered=True),
        loader=roomy,
        # Where a round will leave it, or the second would be compiled again.
        place=lambda x: placed(x, everywhere),
        bits=True,
    )
    what = f"On {count} devices"
    assert_same(got, here.expected, what=what)
    assert_same(got, here.expected_in_order, 0.0, what=f"{what}, bit for bit")


@law
def one_trace(here: Setup) -> None:
    """Many rounds, and an algorithm built anew, are traced once.

    Numbers that one tunes are array fields (`converter=equifed.floating`), and a
    function is made once, not anew with each algorithm.
    """
    first, second = here.traces
    assert first == second, "The second round was traced again."


@law
def resume(here: Setup) -> None:
    """A run that is stopped and taken up again ends in the same bits.

    All that is kept from round to round must be in the state.
    """

    def stored(x: Any) -> Any:
        if not eqx.is_array(x) or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        return jnp.asarray(np.asarray(x))

    middle, _ = here.algorithm.round(here.state, here.cohort(0), key=jr.key(KEY))
    middle = jtu.tree_map(stored, middle)
    got = here.run(state=middle, start=1)
    assert_same(got, here.expected, 0.0, what="Taken up again after a round")


@law
def sweep(here: Setup) -> None:
    """Many experiments under `eqx.filter_vmap` are those experiments one by one."""
    if hold_at_once(here):
        return
    cohort = quiet(here.cohort(0))
    keys, scales = two_experiments()

    @eqx.filter_vmap(in_axes=(None, None, None, 0, 0))
    def experiments(algorithm, state, cohort, scale, key):
        state = scaled(state, scale)
        return round_step(algorithm, state, cohort, key, Executor())

    got = quickly(experiments)(here.quiet, here.state, cohort, scales, keys)
    for i in range(2):
        one = tree_row(got, i)
        state = scaled(here.state, scales[i])
        expected = here.algorithm.round(state, cohort, key=keys[i])
        assert_same(one, expected, what="Under `eqx.filter_vmap`")
