"""The cohorts of several rounds, brought to one shape, for one call."""

from collections.abc import Mapping, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from .._cohort import Cohorts, NO_CLIENT, NO_ROW
from ._placement import Placement
from ._plan import Plan


def make_cohorts(
    plans: Sequence[Plan],
    size: int,
    shared: Mapping[str, Shaped[Array, "devices rows ..."]] | None,
    pools: Sequence[Mapping[str, Shaped[Array, "devices _ ..."]]],
    to: Placement,
) -> Cohorts:
    """Stacks the plans of at most `size` rounds; where there are fewer, the last ones
    are empty.

    The largest of several rungs is a rung, so stacking does not make more shapes to
    compile for.

    **Arguments:**

    - `shared`: the pool of all rounds, if the data is resident;
    - `pools`: else one for each round.
    """
    num_steps = max(plan.order.shape[1] for plan in plans)
    num_slots = max(plan.index.shape[1] for plan in plans)

    def stack(name: str, length: int, fill: int) -> np.ndarray:
        arrays = [getattr(plan, name) for plan in plans]
        shape = list(arrays[0].shape)
        shape[1] = length
        out = np.full((size, *shape), fill, np.int32)
        for i, array in enumerate(arrays):
            out[i, :, : array.shape[1]] = array
        return out

    arrays = to.put(
        [
            stack("order", num_steps, NO_ROW),
            *(
                stack(name, num_slots, 0)
                for name in ("start", "stop", "first", "num_examples")
            ),
            stack("index", num_slots, NO_CLIENT),
        ],
        axis=1,
    )
    order, start, stop, first, num_examples, index = cast(list[Array], arrays)
    examples = shared
    if shared is None:
        # A round that is not there has the pool of the last one, and does not use it.
        filled = [*pools, *[pools[-1]] * (size - len(pools))]
        examples = jax.tree.map(lambda *x: _grow_and_stack(x), *filled)
    return Cohorts(
        examples=examples,
        order=order,
        start=start,
        stop=stop,
        first=first,
        num_examples=num_examples,
        index=index,
        pooled=shared is None,
    )


@jax.jit
def _grow_and_stack(pools: Sequence[Shaped[Array, "devices _ ..."]]):
    num_rows = max(x.shape[1] for x in pools)
    pads = [(0, 0)] * pools[0].ndim

    def grown(x):
        return jnp.pad(x, [*pads[:1], (0, num_rows - x.shape[1]), *pads[2:]])

    return jnp.stack([grown(x) for x in pools])
