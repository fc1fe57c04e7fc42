"""A round whose passes are run elsewhere: by clients who have their own data.

The step of an algorithm is traced and cut at its passes, as for a round of programs of
one device (see `apart`), on the server and by every client alike; so both know what
each pass is, and only numbers have to travel. Which numbers follows from the trace.
What a pass takes of the algorithm itself, and of what is not trained, every client has.
What clients keep stays with them, as far as the step only hands it on from pass to pass
and to the next round; what the step computes with is sent to it. All else is sent down.

The server runs what lies between the passes, and a client its share of a pass, by the
programs that a simulated round runs.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .._cohort import Cohort
from .._compiled import FlatTree, Options
from .._executor import Executor
from .._types import Example
from ..data._plan import ladder
from .apart import side_by_side, total_of
from .places import first
from .record import clients_of_device, recorded
from .segments import Call, CannotCut
from .state import State
from .travels import (
    is_var,
    one_of,
    PassPlan,
    paths_of,
    Place,
    places_in,
    said_by_one,
    without_examples,
)


Named = dict[str, Any]
# Given the number of a pass, what is sent to all, what to each slot, and the clients'
# numbers; gives what they said, for each slot, what they report of their states, and
# the numbers of those who answered.
Ask = Callable[
    [int, Named, dict[int, Array], Int[Array, "devices slots"]],
    tuple[PyTree, dict[int, Array], Int[Array, "devices slots"]],
]


class Elsewhere:
    """A step, cut at its passes, for so many slots."""

    def __init__(
        self,
        algorithm: Any,
        state: State,
        example: Example,
        *,
        num_slots: int,
        key: PRNGKeyArray,
        options: Options = (),
    ):
        """**Arguments:**

        - `state`: whose `clients` are the state of one.
        - `example`: the shapes of one.
        - `options`: what else to tell the compiler.
        """
        self._alive = (algorithm, state)  # A trace holds functions weakly.
        self._executor, self._options = Executor(ordered=True), options
        self._capacity = ladder(num_slots)
        slots = jtu.tree_map(
            lambda x: jnp.zeros((1, num_slots, *x.shape), x.dtype), state.clients
        )
        before = dataclasses.replace(state, clients=slots)
        cohort = without_examples(example, num_slots, algorithm.batching.batch_size)
        given = (algorithm, before, cohort, key)
        try:
            self._trace = recorded(*given, self._executor, self._capacity, options)
        except CannotCut as error:
            raise ValueError(
                f"`{type(algorithm).__name__}` makes a pass inside of a loop or a "
                "branch of its step, where no message can be sent. Write the loop in "
                "Python."
            ) from error
        paths = [paths_of(tree) for tree in given]
        sizes = [len(x) for x in paths]
        inputs = self._trace.segments.inputs
        self._here = {
            v: i
            for i, v in enumerate(inputs)
            if i < sizes[0]
            or (i < sum(sizes[:2]) and paths[1][i - sizes[0]].startswith(".rest"))
        }
        kept = [
            v
            for path, v in zip(paths[1], inputs[sizes[0] :], strict=False)
            if path.startswith(".clients")
        ]
        self._where = {v: f"kept{i}" for i, v in enumerate(kept)}
        self._find_passes()
        self.keeps = self._find_kept(type(algorithm).__name__)

    def _find_passes(self) -> None:
        segments = self._trace.segments
        self.passes: list[PassPlan] = []
        # What is computed with, rather than handed on to clients.
        self._read: set[Any] = set()
        for what, inputs, outputs in segments.parts:
            if isinstance(what, Call):
                self._read |= self._add_pass(what, inputs, outputs)
            else:
                self._read |= set(inputs)
        kept = self._kept_outputs()
        others = [v for i, v in enumerate(segments.outputs) if i not in kept]
        self._read |= set(filter(is_var, others))
        for plan in self.passes:
            plan.reports.extend(j for j, v in enumerate(plan.new) if v in self._read)

    def _add_pass(self, call: Call, inputs: list[Any], outputs: list[Any]) -> set[Any]:
        """Adds a pass. What is sent in it to all is returned."""
        places = [Place(i) for i in range(len(inputs))]
        work, cohort, states = call.what.strong().build(places)
        named = places_in(work)
        here = {
            i: self._here[inputs[i]] for i in named.values() if self._is_here(inputs[i])
        }
        down = {name: i for name, i in named.items() if i not in here}
        at = list(places_in(states).values())
        taken = [inputs[i] for i in at]
        sources = [self._where.get(v) if is_var(v) else None for v in taken]
        new = outputs[len(outputs) - len(at) :]
        self._where |= {v: f"pass{len(self.passes)}.{j}" for j, v in enumerate(new)}
        up, index = said_by_one(call, work), cohort.index.number
        plan = PassPlan(call, inputs, new, down, here, at, sources, up, [], index)
        self.passes.append(plan)
        return {inputs[i] for i in down.values() if is_var(inputs[i])}

    def _is_here(self, v: Any) -> bool:
        return is_var(v) and v in self._here

    def _kept_outputs(self) -> list[int]:
        """The places of what clients keep among the step's outputs."""
        count = len(self._trace.segments.outputs)
        tree = self._trace.result.strong().build([Place(i) for i in range(count)])
        return list(places_in(tree[0].clients).values())

    def _find_kept(self, name: str) -> list[str]:
        """Where a client finds what it keeps when a round is over."""
        outputs = self._trace.segments.outputs
        kept = [outputs[i] for i in self._kept_outputs()]
        found = [self._where.get(v, "") if is_var(v) else "" for v in kept]
        read = [v for v, where in self._where.items() if where.startswith("kept")]
        if "" in found or any(v in self._read for v in read):
            raise ValueError(
                f"`{name}` computes with what its clients keep outside of its passes, "
                "and so it cannot be deployed: what they keep stays with them. Let the "
                "client do it in its `round`."
            )
        return found

    def run(
        self, algorithm: Any, state: State, cohort: Cohort, key: Any, ask: Ask
    ) -> Any:
        """Runs the server's part of a round, and asks for its passes.

        **Arguments:**

        - `state`: whose `clients` nobody reads.

        **Returns:**

        The state after it, without clients; the metrics; and whether it is accepted.
        """
        numbers = itertools.count()

        def one_pass(_: FlatTree, given: list[Any]) -> list[Any]:
            number = next(numbers)
            plan = self.passes[number]
            down = {name: given[i] for name, i in plan.down.items()}
            pairs = zip(plan.states, plan.sources, strict=True)
            rows = {
                j: given[i] for j, (i, source) in enumerate(pairs) if source is None
            }
            said, reported, index = ask(number, down, rows, given[plan.index])
            gathers = self._gathers(plan)
            total = total_of(said, index, None, self._capacity if gathers else None)
            states = [reported.get(j) for j in range(len(plan.states))]
            return [*FlatTree(total).arrays, *states]

        like = jtu.tree_map(lambda x: jnp.zeros((), x.dtype), state.clients)
        before = dataclasses.replace(state, clients=like)
        after, metrics, accept = self._trace.run(
            (algorithm, before, cohort, key),
            one_pass,
            lambda function, inputs: function(*(first(x, None) for x in inputs)),
        )
        return dataclasses.replace(after, clients=None), metrics, accept

    def _gathers(self, plan: PassPlan) -> bool:
        places = [Place(i) for i in range(plan.call.what.size)]
        return plan.call.what.strong().build(places)[0].aggregator.gathers

    def stacked(self, number: int, rows: Mapping[str, Array]) -> PyTree:
        """What the slots' clients said, with the axes (devices, slots, ...), from its
        arrays by name."""
        plan = self.passes[number]
        total, _ = jtu.tree_unflatten(plan.call.structure, plan.call.shapes)
        return jtu.tree_unflatten(
            jtu.tree_structure(total), [rows[name] for name in plan.up]
        )

    def run_client(
        self,
        number: int,
        algorithm: Any,
        rest: Any,
        down: Mapping[str, Array],
        states: list[Array],
        cohort: Cohort,
    ) -> tuple[dict[str, Array], list[Array]]:
        """Runs one client's share of a pass.

        **Arguments:**

        - `number`: the pass.
        - `rest`: what is not trained, as the client has it.
        - `down`: what was sent to all, by name.
        - `states`: the client's states in this pass.
        - `cohort`: with the client in its first slot, and nobody in others.

        **Returns:**

        What it says, by name, and its new states.
        """
        plan = self.passes[number]
        own = [*FlatTree(algorithm).arrays, *FlatTree(rest).arrays]
        known = dict(zip(self._here.values(), own, strict=True))
        given: list[Any] = [None] * plan.call.what.size
        for name, place in plan.down.items():
            given[place] = down[name]
        for place, i in plan.here.items():
            given[place] = known[i]
        for place, x in zip(plan.states, states, strict=True):
            # Whatever is in the slots that are empty.
            given[place] = jnp.broadcast_to(x, (1, cohort.num_slots, *x.shape))
        work, _, slots = plan.call.what.strong().build(given)
        call = (work, cohort, slots, self._executor)
        said, new = side_by_side(clients_of_device, self._options, [call])[0]
        said = dict(zip(plan.up, jtu.tree_leaves(said), strict=True))
        return {n: x[0, 0] for n, x in said.items()}, [
            x[0, 0] for x in jtu.tree_leaves(new)
        ]

    def kind_of(self, number: int) -> tuple[dict[str, Any], dict[int, Any]]:
        """The shapes of what is sent to all in a pass, and of one client's states."""
        plan = self.passes[number]
        down = {name: plan.inputs[i].aval for name, i in plan.down.items()}
        states = {j: one_of(plan.inputs[i].aval, 2) for j, i in enumerate(plan.states)}
        return down, states
