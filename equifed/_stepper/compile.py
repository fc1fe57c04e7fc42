"""What a round is compiled with, beyond XLA's defaults.

On a CPU, XLA may hand fused groups of operations to the YNN library. That makes dense
and recurrent models up to a fifth faster, but convolutions up to half slower. So it is
turned off where the loss convolves with `equifed.nn.Conv2d`, for that program alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._cohort import Cohort
from .._types import Loss
from ..nn._conv import conv2d_p


# No library to fuse for: nothing is handed over.
_NO_YNN = {"xla_cpu_experimental_ynn_fusion_type": ""}


def compiler_options(
    loss: Loss, model: Any, cohort: Cohort, trace: Callable[[], Any]
) -> dict[str, str]:
    """What to give `jax.jit` as `compiler_options`.

    **Arguments:**

    - `model`: the shapes of the one to look at; `None` if there are several.
    - `trace`: traces the whole round, which takes longer.
    """
    device = next(iter(cohort.index.devices()))
    if device.platform != "cpu" or not _known():
        return {}
    if model is None:
        jaxpr = trace()
    else:
        jaxpr, _, _ = eqx.filter_make_jaxpr(loss)(model, cohort.example, jr.key(0))
    return _NO_YNN if conv2d_p.name in str(jaxpr) else {}


@functools.cache
def _known() -> bool:
    """Whether this version of XLA has the option."""
    try:
        jax.jit(lambda x: x, compiler_options=_NO_YNN)(jnp.zeros(()))
    except Exception:  # noqa: BLE001 (whatever the compiler raises)
        return False
    return True
