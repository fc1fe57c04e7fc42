"""What the server and every client make of one algorithm and model, each for itself:
the step, cut at its passes, and digits by which they see that it is the same one.
"""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PRNGKeyArray

from .._algorithm import AbstractAlgorithm
from .._algorithm.inside import asynchronous_in
from .._evaluate.over_rows import traced_metrics
from .._roles import Roles
from .._round import State
from .._round.elsewhere import Elsewhere
from .._round.travels import without_examples
from .._stepper.compile import compiler_options
from .._store import store_of
from .._tree import kind_of, leaves_by_path
from .._types import Example, Measure, Model
from .._warn import warn
from ..privacy import AbstractMechanism


# The shape and the dtype of an example in each column, as JSON has them.
Columns = dict[str, list]


def check_waits(algorithm: AbstractAlgorithm) -> None:
    """Refuses an asynchronous algorithm, also around which another is wrapped."""
    found = asynchronous_in(algorithm)
    if found is not None:
        raise ValueError(
            f"`{type(found).__name__}` is asynchronous: its clients begin from "
            "models of different ages. A deployed round waits for its clients, who "
            "all begin from the newest, and no message says how old a model is. "
            "Deploy `FedAvg` or another algorithm of rounds."
        )


def warn_of_noise(algorithm: AbstractAlgorithm) -> None:
    """Says of a private mechanism what its noise is worth where clients are real."""
    parts = jtu.tree_leaves(
        algorithm, is_leaf=lambda x: isinstance(x, AbstractMechanism)
    )
    found = [type(x).__name__ for x in parts if isinstance(x, AbstractMechanism)]
    if found:
        warn(
            f"The noise of `{found[0]}` follows from keys that every client is sent, "
            "and that the server has: each of these could take it off again. It "
            "protects from those who see the trained model alone, and a "
            "`PrivacyPlan`, which promises more, is not kept here."
        )


def begun(
    algorithm: AbstractAlgorithm,
    model: Model,
    *,
    num_clients: int,
    roles: Roles | None,
    key: PRNGKeyArray | None = None,
) -> State:
    """The state before the first round, whose `clients` are the state of one."""
    key = jr.key(0) if key is None else key
    state = algorithm.init(
        model, num_clients=num_clients, key=key, roles=roles, client_states="host"
    )
    store = store_of(state.clients)
    initial = [] if store is None else map(jnp.asarray, store.initial)
    one = jtu.tree_unflatten(jtu.tree_structure(state.clients), initial)
    return dataclasses.replace(state, clients=one)


def cut(
    algorithm: AbstractAlgorithm,
    state: State,
    columns: Columns,
    num_slots: int,
    key_impl: str,
) -> Elsewhere:
    """The step, cut at its passes."""
    # No number of the key is looked at.
    key, example = jr.key(0, impl=key_impl), example_of(columns)
    options, model = {}, algorithm.model(state)
    if model is not None:  # As a loop over simulated rounds compiles them.
        cohort = without_examples(example, num_slots, algorithm.batching.batch_size)
        options = compiler_options(algorithm.loss, model, cohort, lambda: None)
    return Elsewhere(
        algorithm,
        state,
        example,
        num_slots=num_slots,
        key=key,
        options=tuple(sorted(options.items())),
    )


def example_of(columns: Columns) -> Example:
    return {
        name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
        for name, (shape, dtype) in columns.items()
    }


def digits_of_model(state: State) -> str:
    """Digits of the form of what is trained."""
    return _digits({n: kind_of(x) for n, x in leaves_by_path(state.params).items()})


def digits_of_passes(parts: Elsewhere) -> str:
    """Digits of what travels in each pass and of what stays."""
    found: list[Any] = [parts.keeps]
    for number, plan in enumerate(parts.passes):
        down, states = parts.kind_of(number)
        kinds = [{str(n): kind_of(x) for n, x in y.items()} for y in (down, states)]
        up = {name: kind_of(x) for name, x in plan.up.items()}
        found.append([*kinds, up, plan.sources, plan.reports])
    return _digits(found)


def _digits(x: Any) -> str:
    return hashlib.sha256(json.dumps(x).encode()).hexdigest()[:16]


def evaluated(algorithm: AbstractAlgorithm, state: State) -> tuple[Model, list[str]]:
    """The model that is evaluated, and the names of its arrays that have to travel:
    those that do not lie in what is not trained, which every client has."""
    model = algorithm.model(state)
    if model is None:
        raise ValueError(
            f"`{type(algorithm).__name__}` trains several models, none of which is the "
            "one to be evaluated by the clients. Leave `evaluate_every` out."
        )
    own = {id(x) for x in jtu.tree_leaves(state.rest)}
    named = leaves_by_path(model).items()
    return model, [n for n, x in named if isinstance(x, jax.Array) and id(x) not in own]


def measured(metrics: Measure, model: Model, columns: Columns) -> dict[str, Any]:
    """The metrics of an evaluation, as shapes."""
    return traced_metrics(metrics, model, example_of(columns), "a client")[0]
