"""Options of how a round is run. Nothing here changes what is computed."""

from typing import Literal

import equinox as eqx

from .._check import check_count, checked
from .._cohort import Cohort, NO_CLIENT
from .._mesh import num_devices


class Executor(eqx.Module):
    """Options of how a round is run: they never change its result.

    A round runs on the devices that its cohort was made for, by the mesh that its
    loader was given: a `jax.sharding.Mesh` with an axis `clients`. Over any other axis
    the compiler spreads each client's own work, following how the model is sharded.

    **Arguments:**

    - `block_size`: how many clients run side by side on a device. 1 is right for a
        CPU unless the model is tiny (a hundred params: 50 is several times faster); 8
        to 64 fill a GPU. Memory grows with it. With `"auto"`,
        [`equifed.rounds`][] and [`equifed.train`][] time the first round at several
        sizes and take the fastest. As this may differ from run to run, so may the last
        bits of a result, also if it is `ordered` or resumed: give a number for those.
    - `ordered`: the same bits on any number of devices, at the same `block_size`. The
        clients of each device are a program of that device alone, so that all run the
        same machine code, and their messages are summed in the order of the clients'
        numbers. It compiles once for each device, and memory grows with the cohort.
        A round within your own `jit`, `vmap` or `grad`, or on a mesh with other axes,
        is summed in that order too, but is one program, which the compiler may round
        differently in the last bit.
    - `differentiable`: make the round reverse-mode differentiable, by checkpointing
        its loops. In blocks of more than one client, one that has fewer steps than
        another takes steps of gradient 0 that do not count; where an optimiser takes
        a square root of those, as Adam does, derivatives become NaN: use blocks of
        one, or `optax.adam(..., eps_root=1e-8)`.
    - `debug`: to find a mistake. Nothing is compiled; clients are run one after
        another by Python, and the loss is called for each example of a batch with
        plain values before it is differentiated, so that `print`, `breakpoint` and a
        debugger show numbers. (It is traced as well, for its shapes and gradients:
        `isinstance(x, jax.core.Tracer)` tells.) Exceptions are raised as they are, with
        notes on the round, the client, the part, the step and the example. It takes
        hundreds of times the time; use few and small clients.
    """

    block_size: int | Literal["auto"]
    ordered: bool
    differentiable: bool
    debug: bool

    @checked()
    def __init__(
        self,
        *,
        block_size: int | Literal["auto"] = 1,
        ordered: bool = False,
        differentiable: bool = False,
        debug: bool = False,
    ):
        self.block_size = block_size
        self.ordered = ordered
        self.differentiable = differentiable
        self.debug = debug

    def __check_init__(self):
        if self.block_size != "auto":
            check_count("block_size", self.block_size, most=NO_CLIENT)
        if self.debug and (self.block_size != 1 or self.ordered or self.differentiable):
            raise ValueError(
                "`debug=True` runs one client after another by Python, without "
                f"`block_size`, `ordered` and `differentiable`, got {self!r}. Leave "
                "these out while debugging."
            )

    def check(self, cohort: Cohort) -> None:
        if self.block_size == "auto":
            raise ValueError(
                "`block_size='auto'` is measured by `rounds` and `train`. A single "
                "`algorithm.round` needs a number."
            )
        count = num_devices(cohort.mesh)
        if cohort.num_devices != count:
            raise ValueError(
                f"The cohort has slots on {cohort.num_devices} devices, but its mesh "
                f"has {count}. Give the mesh to the loader, `Loader(..., mesh=mesh)`, "
                "or to the `Cohort` itself."
            )
