"""What a round costs a client, whatever its device is like."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jax.stages import Compiled
from jaxtyping import Array, ArrayLike, PRNGKeyArray

from .._algorithm import AbstractAlgorithm
from .._bits import DOWN, UP
from .._check import checked
from .._cohort import Cohort
from .._compiled import FlatTree, kept, Key
from .._executor import Executor
from .._roles import Roles
from .._round import State
from .._round.step import round_step
from .._types import Model
from ..data import cohort, Loader
from .operations import flops_of
from .quantity import number


@dataclasses.dataclass(eq=False)
class Work:
    """What a client computes, receives and sends in a round.

    Of a step that costs as much for all clients; a client that takes more of them, by
    its number of examples, works longer.
    """

    flops: float
    bits_down: float
    bits_up: float

    @checked()
    def __init__(self, *, flops: ArrayLike, bits_down: ArrayLike, bits_up: ArrayLike):
        """**Arguments:**

        - `flops`: floating-point operations of one local step. Or 1, if the `speed` of
            the system is in steps a second.
        - `bits_down`: what a client receives in a round.
        - `bits_up`: what it sends.
        """
        self.flops = number("flops", flops, least=0)
        self.bits_down = number("bits_down", bits_down, least=0)
        self.bits_up = number("bits_up", bits_up, least=0)

    @staticmethod
    @checked(loader="Make one with `Loader(dataset, sampler, algorithm.batching)`.")
    def of(
        algorithm: AbstractAlgorithm,
        model: Model,
        loader: Loader,
        *,
        roles: Roles | None = None,
    ) -> "Work":
        """The work of an algorithm's clients, counted.

        The bits are those that the ledger of a round with one client has, `bits_up` and
        `bits_down`. The operations are those that XLA counts in the compiled round with
        one client: of one local step, or one of each loop over steps that a client has,
        and beside it of what encodes the message and what the server does, as if each
        step had these. XLA counts what is inside of a loop once; a loop within a step
        that has a fixed length (`jax.lax.scan` over layers, or a sequence) is compiled
        by itself and counted as often as it runs.

        It compiles the round, once for each algorithm and form of the model, and runs
        it, with the first client that takes a step.

        **Arguments:**

        - `algorithm`, `model`, `roles`: as for [`equifed.train`][].
        - `loader`: whose clients they are. It may have no clock yet.

        **Raises:**

        `ValueError` if no client takes a step, or XLA does not count on this device.
        """
        steps = algorithm.batching.num_steps(loader.dataset.client_sizes)
        able = np.flatnonzero(np.asarray(steps) > 0)
        if len(able) == 0:
            raise ValueError(
                "No client of the loader takes a step, so that there is no work to "
                "count. Give `Work(flops=..., bits_down=..., bits_up=...)`."
            )
        one = cohort(
            loader.dataset, algorithm.batching, clients=able[:1], resident=False
        )
        # An asynchronous algorithm wants to know how old the model is.
        now = {"staleness": jnp.zeros_like(one.index)}
        one, key = dataclasses.replace(one, info=now), jr.key(0)
        state = algorithm.init(
            model, num_clients=loader.num_clients, key=key, roles=roles
        )
        return _counted(algorithm, state, one, key)


class _Program(NamedTuple):
    """A round with one client, compiled."""

    run: Compiled
    flops: float


def _counted(
    algorithm: AbstractAlgorithm, state: State, one: Cohort, key: PRNGKeyArray
) -> Work:
    flats = FlatTree((algorithm, state)), FlatTree(one)
    arrays = [flat.arrays for flat in flats]
    # What is counted once is not compiled again, for the clock of another run.
    kinds = [(jax.typeof(x), x.sharding) for x in jtu.tree_leaves(arrays)]
    x64 = jax.config.jax_enable_x64  # pyright: ignore
    how = (*kinds, jax.typeof(key), x64)
    found = kept(lambda made: _program(made, arrays, key), _program, flats, how)
    if not found.flops > 0:
        raise ValueError(
            "XLA does not count the operations of this round on this device. Give "
            "`Work(flops=..., bits_down=..., bits_up=...)`."
        )
    _, metrics = found.run(*arrays)
    return Work(
        flops=found.flops, bits_down=int(metrics[DOWN]), bits_up=int(metrics[UP])
    )


def _program(made: Key, arrays: list[list[Array]], key: PRNGKeyArray) -> _Program:
    def program(*arrays: list[Array]) -> Any:
        flats = zip(made.flats, arrays, strict=True)
        (algorithm, state), one = (flat.strong().build(x) for flat, x in flats)
        after, metrics = round_step(algorithm, state, one, key, Executor())
        return FlatTree(after).arrays, metrics

    traced = jax.jit(program).trace(*arrays)
    compiled = traced.lower().compile()
    return _Program(compiled, flops_of(traced.jaxpr.jaxpr, compiled))
