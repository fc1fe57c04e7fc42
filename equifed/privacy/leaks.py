"""What leaves a client without noise, found in the program of a round.

A round is traced with its passes left open. What a pass gives the server is then either
a sum that the mechanism noises, or not: the number of messages, the clients' metrics,
the states that they keep, who they are. Followed backwards through the program, what
the server keeps and sends must rest on the first kind alone. No promise of a method is
needed for this, and a method of one's own is held to it as any other.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.random as jr
import jax.tree_util as jtu
from jax.extend import core as jex
from jaxtyping import Array, PyTree

from .._algorithm import AbstractAlgorithm
from .._cohort import Cohort
from .._executor import Executor, Participants
from .._executor.blocks import Pass
from .._round import State
from .._round.record import pass_shapes
from .._round.segments import Call, has_pass
from .._round.step import guarded_step
from .._types import ClientState
from .covering import AbstractCovering


LOOP = "a pass inside of a loop or a branch"


def check_release(
    algorithm: AbstractAlgorithm,
    covering: AbstractCovering,
    state: State,
    cohort: Cohort,
) -> list[str]:
    """Refuses an algorithm whose server learns anything that no noise covers.

    **Arguments:**

    - `state`: before a round, with the states of the whole population.
    - `cohort`: of any round.

    **Returns:**

    The names of a round's metrics.
    """
    found = Followed(algorithm, covering, state, cohort)
    name = type(algorithm).__name__
    if found.num_passes != 1:
        raise ValueError(
            f"`{name}` makes {found.num_passes} passes over its clients in a round, "
            "and the plan accounts for what one of them gives. Take an algorithm of "
            "one pass, such as `FedAvg`."
        )
    if found.leaks:
        raise ValueError(
            f"The server of `{name}` makes use of {' and of '.join(found.leaks)}, to "
            "which no noise is added. Take an algorithm that reads the aggregate's "
            "payload alone, such as `FedAvg`."
        )
    return found.metrics


class Followed:
    """Of a traced round: how many passes it makes, the names of its metrics, and on
    what its state rests that no noise covers."""

    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        covering: AbstractCovering,
        state: State,
        cohort: Cohort,
    ):
        self._algorithm, self._covering, self.num_passes = algorithm, covering, 0
        self.metrics: list[str] = []
        # In one block on one device: what a client sends does not depend on either.
        executor = Executor()
        # Wherever they lie, a step sees those of the slots.
        states = jtu.tree_map(
            lambda x: jax.ShapeDtypeStruct(cohort.index.shape + x.shape[1:], x.dtype),
            state.clients,
        )
        seen, open_ = eqx.partition(cohort, eqx.is_array)
        public = dataclasses.replace(state, clients=None)
        arrays, static = eqx.partition(public, eqx.is_array)

        def step(arrays: PyTree, states: PyTree, seen: PyTree, key: Array) -> PyTree:
            cohort = eqx.combine(seen, open_)
            before = dataclasses.replace(eqx.combine(arrays, static), clients=states)
            there = Participants(executor, cohort, before.round, self._pass)
            after, metrics, accept = guarded_step(algorithm, before, there, key)
            self.metrics = list(metrics)
            kept = dataclasses.replace(after, clients=None)
            return eqx.filter(kept, eqx.is_array), accept

        key = jax.eval_shape(lambda: jr.key(0))
        closed = jax.make_jaxpr(step)(arrays, states, seen, key)
        labels = [None] * len(jtu.tree_leaves(arrays))
        labels += [covering.states] * len(jtu.tree_leaves(states))
        labels += [*covering.of_cohort(seen), None]
        outputs = [True] * len(closed.jaxpr.outvars)
        needed, inside = _needed(closed.jaxpr, outputs)
        found = {x for x, on in zip(labels, needed, strict=True) if on and x}
        self.leaks = sorted(found | set(inside))

    def _pass(
        self, work: Pass, executor: Executor, cohort: Cohort, states: ClientState
    ) -> tuple[PyTree, ClientState]:
        """Stands for a pass: what goes out to the clients, and what comes back."""
        self.num_passes += 1
        self._covering.check(self._algorithm, work)
        shapes = pass_shapes(work, executor, cohort, states, cohort.index.size)
        (encoded, metrics), states = shapes
        labels = self._covering.of_sum(encoded)
        labels += [f"the clients' metric {n!r}" for n in _names(metrics)]
        labels += [self._covering.states] * len(jtu.tree_leaves(states))
        # The ledger of each client's bits is a metric alone.
        work = dataclasses.replace(work, ledger=None)
        sent = jtu.tree_leaves(eqx.filter(work, eqx.is_array))
        out = Call(labels, jtu.tree_leaves(shapes))(*sent)
        return jtu.tree_unflatten(jtu.tree_structure(shapes), out)


def _names(metrics: dict[str, Any]) -> Iterator[str]:
    """The name of each leaf's metric."""
    for path, _ in jtu.tree_leaves_with_path(metrics):
        yield path[0].key


def _needed(jaxpr: Any, outputs: list[bool]) -> tuple[list[bool], list[str]]:
    """Which inputs these outputs rest on, and what of passes that no noise covers.

    Where a program is called in a program, it is gone through as well; of a loop or a
    branch all inputs count.
    """
    live = {
        v
        for v, on in zip(jaxpr.outvars, outputs, strict=True)
        if on and isinstance(v, jex.Var)
    }
    found: list[str] = []
    for eqn in reversed(jaxpr.eqns):
        used = [v in live for v in eqn.outvars]
        if not any(used):
            continue
        call, inner = eqn.params.get("call"), list(jex.jaxprs_in_params(eqn.params))
        through = [True] * len(eqn.invars)
        if isinstance(call, Call):
            found += [x for x, on in zip(call.what, used, strict=True) if on and x]
        elif len(inner) == 1 and _is_a_call(inner[0], eqn):
            through, more = _needed(inner[0], used)
            found += more
        elif any(map(has_pass, inner)):
            found.append(LOOP)
        live |= {
            v
            for v, on in zip(eqn.invars, through, strict=True)
            if on and isinstance(v, jex.Var)
        }
    return [v in live for v in jaxpr.invars], found


def _is_a_call(inner: Any, eqn: Any) -> bool:
    """Whether it runs a program once, with what it is given."""
    loops = ("scan", "while", "cond", "shard_map", "federated_pass")
    return eqn.primitive.name not in loops and (
        len(inner.invars) == len(eqn.invars) and len(inner.outvars) == len(eqn.outvars)
    )
