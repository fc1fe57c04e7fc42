"""One client: it answers what it is asked, from its own data.

It trains by the program that a simulated round runs, and keeps for itself what the
method lets clients keep.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.tree_util as jtu

from .._algorithm import AbstractAlgorithm
from .._check import checked
from .._cohort import Cohort
from .._compiled import FlatTree
from .._evaluate import Evaluator
from .._roles import Roles
from .._round import State
from .._round.elsewhere import Elsewhere
from .._round.lookups import check_lookups
from .._types import Measure, Model
from ._arrays import (
    check_arrays,
    from_wire,
    named_numbers,
    Numbers,
    numbers_of,
    to_wire,
    Wire,
)
from ._held import Held
from ._memory import AbstractMemory
from ._own import client_number, cohort_of, columns_of, Data, dataset_of
from ._plan import (
    begun,
    check_waits,
    Columns,
    cut,
    digits_of_model,
    digits_of_passes,
    evaluated,
)
from ._same import made_of


QUERY, TRAIN, EVALUATE = "query", "train", "evaluate"


class Answer(NamedTuple):
    """What a client says."""

    arrays: Wire
    metrics: Numbers
    config: dict[str, Any]


class Client:
    """What runs where a client's data is.

    !!! example

        ```python
        def data(node):
            return dict(np.load(node["data"]))  # {"x": ..., "y": ...}

        client = eqf.deploy.Client(algorithm, model, data)
        ```
    """

    @checked()
    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        model: Model,
        data: Data,
        *,
        test_data: Data | None = None,
        metrics: Measure | None = None,
        roles: Roles | None = None,
    ):
        """**Arguments:**

        - `algorithm`, `model`: the same as the server's, or it refuses this client. Of
            the model the form counts, and the numbers that are not trained.
        - `data`: given the node's settings (a mapping: `partition-id`, and whatever
            else it was started with, such as a path), this client's examples: one array
            for each column, with a row for each example.
        - `test_data`: likewise those that it is evaluated on; by default `data`.
        - `metrics`: what an evaluation computes of one example, as for
            [`equifed.evaluate`][]; by default the algorithm's loss. The server needs
            the same.
        - `roles`: as for `algorithm.init`; the same as the server's.
        """
        check_waits(algorithm)
        self.algorithm, self.model = algorithm, model
        self.data = data
        self.test_data = data if test_data is None else test_data
        self.metrics: Measure = algorithm.loss if metrics is None else metrics
        self.roles = roles
        self._form: Any = None
        self._about: dict[str, Any] | None = None

    def answer(
        self,
        kind: str,
        arrays: Wire,
        config: Mapping[str, Any],
        node: Mapping[str, Any],
        memory: AbstractMemory,
    ) -> Answer:
        """Answers one message.

        **Arguments:**

        - `kind`: `"query"`, `"train"` or `"evaluate"`.
        - `arrays`, `config`: what was sent.
        - `node`: the settings of this client's node.
        - `memory`: what it keeps.
        """
        number = client_number(node, config["clients"])
        dataset = dataset_of(self.data, node, "data")
        columns = columns_of(dataset)
        state, parts = self._parts(columns, config)
        if kind == EVALUATE:
            return self._evaluate(arrays, state, node)
        if kind == QUERY:
            if self._about is None:
                self._about = {
                    "model": digits_of_model(state),
                    "passes": digits_of_passes(parts),
                    "columns": json.dumps(columns),
                    "made_of": made_of(self.algorithm, state),
                }
            about = {"client": number, "examples": dataset.num_examples}
            return Answer({}, {}, about | self._about)
        if config["passes"] != digits_of_passes(parts):
            raise ValueError(
                "The server trains by another algorithm or version of it than this "
                "client has. Give both the same."
            )
        cohort = cohort_of(self.algorithm, dataset, number, config)
        check_lookups(
            *(self.algorithm.loss, self.algorithm._numbered),
            lambda: next(iter(self.algorithm.models(state)), None),
            [FlatTree(state)],
            cohort,
        )
        return self._train(parts, state, cohort, arrays, config, memory)

    def _parts(
        self, columns: Columns, config: Mapping[str, Any]
    ) -> tuple[State, Elsewhere]:
        """The state that a training begins with, and the step, cut at its passes."""
        form = (columns, config["clients"], config["slots"], config["keys"])
        if self._form != form:
            _, num_clients, *how = form
            state = begun(
                self.algorithm, self.model, num_clients=num_clients, roles=self.roles
            )
            self._made = (state, cut(self.algorithm, state, columns, *how))
            self._form, self._about = form, None
        return self._made

    def _train(
        self,
        parts: Elsewhere,
        state: State,
        cohort: Cohort,
        arrays: Wire,
        config: Mapping[str, Any],
        memory: AbstractMemory,
    ) -> Answer:
        """Trains: the client's share of a pass."""
        number = config["pass"]
        plan = parts.passes[number]
        likes, kinds = parts.kind_of(number)
        sent = {n: x for n, x in arrays.items() if n in likes}
        check_arrays(sent, likes, "The server's message")
        down = {name: from_wire(sent[name], like) for name, like in likes.items()}
        held = Held(parts, state, arrays, config, memory)
        states = [
            from_wire(held.find(source, f"state{j}"), kinds[j])
            for j, source in enumerate(plan.sources)
        ]
        said, new = parts.run_client(
            number, self.algorithm, state.rest, down, states, cohort
        )
        wire = [to_wire(x) for x in new]
        held.keep(number, wire)
        reported = {f"state{j}": wire[j] for j in plan.reports}
        message = {n: to_wire(x) for n, x in said.items() if n.startswith("message")}
        metrics = {n: x for n, x in said.items() if n.startswith("metrics")}
        return Answer(message | reported, numbers_of(metrics), {})

    def _evaluate(self, arrays: Wire, state: State, node: Mapping[str, Any]) -> Answer:
        """The sums of the metrics over this client's test examples."""
        model, names = evaluated(self.algorithm, state)
        leaves = jtu.tree_leaves_with_path(model)
        likes = {jtu.keystr(p): x for p, x in leaves if jtu.keystr(p) in names}
        check_arrays(arrays, likes, "The server's message")
        model = jtu.tree_map_with_path(
            lambda p, x: (
                from_wire(arrays[jtu.keystr(p)], x) if jtu.keystr(p) in likes else x
            ),
            model,
        )
        evaluator = Evaluator(
            dataset_of(self.test_data, node, "test_data"), self.metrics
        )
        total = evaluator._total(model, None, None)
        return Answer({}, named_numbers(total), {})
