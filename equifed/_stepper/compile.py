"""What a round is compiled with, beyond XLA's defaults.

On a CPU, XLA may hand fused groups of operations to the YNN library. That makes dense
and recurrent models up to a fifth faster, and small convolutions up to two thirds, but
large ones up to a third slower. So it is turned off where the loss convolves with
`equifed.nn.Conv2d` in batches that are large enough, for that program alone.

There too, XLA takes away the barriers behind which `jax.checkpoint` computes a second
time before it orders a program's operations, and then computes all of it early: nothing
is saved. Where the loss has checkpoints, they are left in place.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.extend.core import Jaxpr, jaxprs_in_params

from .._client.stateful import alone
from .._cohort import Cohort
from .._types import Loss
from ..nn._conv import conv2d_p


# No library to fuse for: nothing is handed over.
_NO_YNN = {"xla_cpu_experimental_ynn_fusion_type": ""}
_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}

# Multiplications in the largest convolution of a step, from which on YNN is slower: at
# 2 and 6 million it took 0.6 to 0.9 of the time, at 7 million and more 1.05 to 1.3.
_LARGE = 6_500_000


def compiler_options(
    loss: Loss, model: Any, cohort: Cohort, trace: Callable[[], Any]
) -> dict[str, str]:
    """What to give `jax.jit` as `compiler_options`.

    **Arguments:**

    - `model`: the shapes of the one to look at; `None` if there are several.
    - `trace`: traces the whole round, which takes longer.
    """
    device = next(iter(cohort.index.devices()))
    if device.platform != "cpu":
        return {}
    if model is None:
        batch_size, jaxpr = 1, trace()  # The batch is in it.
    else:
        batch_size = cohort.order.shape[-1]
        jaxpr, _, _ = eqx.filter_make_jaxpr(alone(loss))(
            model, cohort.example, jr.key(0)
        )
    options = {}
    if batch_size * _largest(jaxpr.jaxpr) >= _LARGE and _known(_NO_YNN):
        options |= _NO_YNN
    if _checkpoints(jaxpr.jaxpr) and _known(_BARRIERS):
        options |= _BARRIERS
    return options


def _largest(jaxpr: Jaxpr) -> int:
    """How many multiplications the largest convolution of a program makes."""
    found = 0
    for equation in jaxpr.eqns:
        if equation.primitive is conv2d_p:
            kernel: Any = equation.invars[1].aval
            made: Any = equation.outvars[0].aval
            found = max(found, made.size * math.prod(kernel.shape[:3]))
        found = max([found, *map(_largest, jaxprs_in_params(equation.params))])
    return found


def _checkpoints(jaxpr: Jaxpr) -> bool:
    """Whether a program computes something again for its derivative."""
    return any(
        equation.primitive.name in ("checkpoint", "remat", "remat2")
        or any(map(_checkpoints, jaxprs_in_params(equation.params)))
        for equation in jaxpr.eqns
    )


def _known(options: dict[str, str]) -> bool:
    """Whether this version of XLA has the options."""
    return _compiles(*options.items())


@functools.cache
def _compiles(*options: tuple[str, str]) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options=dict(options))(jnp.zeros(()))
    except Exception:  # noqa: BLE001 (whatever the compiler raises)
        return False
    return True
