"""The cohorts of several rounds, brought to one shape, for one call."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Shaped

from .._cohort import Cohort, Cohorts, NO_CLIENT, NO_ROW
from ._placement import Placement
from ._plan import Plan


# The arrays of a plan, and what stands in the empty places of each.
_FILLS = {"order": NO_ROW, "start": 0, "stop": 0, "first": 0, "num_examples": 0}
_FILLS |= {"index": NO_CLIENT}


def make_cohorts(
    plans: Sequence[Plan],
    size: int,
    shared: Mapping[str, Shaped[Array, "devices rows ..."]] | None,
    pools: Sequence[Mapping[str, Shaped[Array, "devices _ ..."]]],
    to: Placement,
    infos: Sequence[PyTree[Shaped[np.ndarray, "devices slots ..."]]],
) -> Cohorts:
    """Stacks the plans of at most `size` rounds; where there are fewer, the last ones
    are empty.

    The largest of several rungs is a rung, so stacking does not make more shapes to
    compile for.

    **Arguments:**

    - `shared`: the pool of all rounds, if the data is resident;
    - `pools`: else one for each round.
    - `infos`: what is said of the slots, for each round.
    """
    stacked = {
        name: _stack(size, fill, [getattr(plan, name) for plan in plans])
        for name, fill in _FILLS.items()
    }
    info = jax.tree.map(lambda *x: _stack(size, 0, x), *infos)
    arrays, info = to.put((stacked, info), axis=1)
    plan = cast(dict[str, Array], arrays)
    examples = shared
    if shared is None:
        # A round that is not there has the pool of the last one, and does not use it.
        filled = [*pools, *[pools[-1]] * (size - len(pools))]
        examples = jax.tree.map(lambda *x: _grow_and_stack(x), *filled)
    pooled = shared is None
    return Cohorts(examples, **plan, pooled=pooled, info=info, mesh=to.mesh)


def _stack(size: int, fill: int, several: Sequence[np.ndarray]) -> np.ndarray:
    """Room for `size` arrays that differ in the length of their second axis."""
    one, length = several[0], max(x.shape[1] for x in several)
    out = np.full((size, len(one), length, *one.shape[2:]), fill, one.dtype)
    for i, x in enumerate(several):
        out[i, :, : x.shape[1]] = x
    return out


def stack_cohorts(cohorts: Sequence[Cohort], size: int) -> Cohorts:
    """Stacks at most `size` cohorts that somebody has made; where there are fewer, the
    last ones are empty.

    **Raises:**

    `ValueError` if they do not lie on the same devices.
    """
    one = cohorts[0]
    if any(c.mesh != one.mesh or c.batch_size != one.batch_size for c in cohorts):
        raise ValueError(
            "The cohorts of the rounds of one call must have the same mesh and the "
            "same batch size, and these differ. Use `rounds_per_call=1`."
        )
    empty = dataclasses.replace(
        one, start=one.stop, index=jnp.full_like(one.index, NO_CLIENT)
    )
    filled = [*cohorts, *[empty] * (size - len(cohorts))]
    stacked = {
        name: _grow_and_stack([getattr(c, name) for c in filled], fill)
        for name, fill in _FILLS.items()
    }
    trees = [(c.examples, c.info) for c in filled]
    examples, info = jax.tree.map(lambda *x: _grow_and_stack(x), *trees)
    return Cohorts(examples, **stacked, pooled=True, info=info, mesh=one.mesh)


@functools.partial(jax.jit, static_argnums=1)
def _grow_and_stack(several: Sequence[Shaped[Array, "devices _ ..."]], fill: int = 0):
    """Arrays that differ in the length of their second axis, filled up and stacked."""
    length = max(x.shape[1] for x in several)
    pads = [(0, 0)] * several[0].ndim

    def grown(x):
        pad = [*pads[:1], (0, length - x.shape[1]), *pads[2:]]
        return jnp.pad(x, pad, constant_values=fill)

    return jnp.stack([grown(x) for x in several])
