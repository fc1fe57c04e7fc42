"""Several trainings side by side: algorithms times seeds.

Hyper-parameters are arrays, so that trainings that differ in them alone are one program
with one more axis. What comes out is what `train` gives, once for each.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from .._algorithm import AbstractAlgorithm
from .._check import check_count, checked, is_key_of_the_default_kind
from .._cohort import Cohort
from .._compiled import compiled, FlatTree
from .._evaluate import Evaluated
from .._executor import Executor
from .._history import Row, rows_of
from .._roles import Roles
from .._round import State
from .._round.step import round_step
from .._tree import tree_row, tree_where
from .._types import Measure, Model
from .._words import listed, shown
from ..data import Loader
from ..privacy import ExampleLevelPlan, PrivacyPlan
from ..privacy.promise import AbstractPlan
from .evaluations import check_evaluations, datasets_of, Evaluations, evaluations_of
from .missing_rows import MissingRows
from .reported import with_report
from .rounds import check_rounds
from .solution import RESULTS, Solution
from .watch import Watch


_Run: TypeAlias = tuple[AbstractAlgorithm, State, PRNGKeyArray]


@dataclasses.dataclass
class _Group:
    """Runs that differ in numbers alone."""

    members: list[int]
    evaluations: list[Evaluations]
    """That of each of them; the same one where they measure the same."""
    plans: list[AbstractPlan | None]
    """What is promised to the clients of each of them."""
    missing: MissingRows


@checked(
    algorithms="Give `{'FedAvg': algorithm}`, for example.",
    model="Give a function of a key, `lambda key: eqx.nn.MLP(..., key=key)` say.",
    loader="Make one with `Loader(dataset, sampler, algorithm.batching)`.",
    keys="Give `jax.random.split(jax.random.key(0), 4)`, for example.",
    evaluation="Give `{'test': dataset}`.",
)
def sweep(
    algorithms: Mapping[str, AbstractAlgorithm],
    model: Callable[[PRNGKeyArray], Model],
    loader: Loader,
    *,
    num_rounds: int,
    keys: Array | Sequence[PRNGKeyArray],
    evaluation: Mapping[str, Evaluated] | None = None,
    metrics: Measure | None = None,
    eval_every: int = 10,
    roles: Roles | Mapping[str, Roles] | None = None,
    privacy: PrivacyPlan
    | ExampleLevelPlan
    | Mapping[str, PrivacyPlan | ExampleLevelPlan]
    | None = None,
) -> dict[str, list[Solution]]:
    """Trains with each of several algorithms, and with each of several keys.

    All runs are trained side by side in one program, as far as their algorithms differ
    in numbers alone (learning rates, `mu`, and the like); each other kind of algorithm
    is a program more. Each run gives what
    `train(algorithm, model(key), loader, num_rounds=num_rounds, key=key)` gives, up to
    the last bits. All of them see the same clients in the same rounds. One that
    diverges ends there, without a warning: its `result` says so. What was reached when
    an error or Ctrl-C ends a sweep is lost. What is frozen is on the device
    once for each run.

    **Arguments:**

    - `algorithms`: for each label an algorithm.
    - `model`: makes the model to start from, of a run's key.
    - `loader`: which clients take part in which round; on one device.
    - `num_rounds`: the number of rounds.
    - `keys`: the runs' root keys, the seeds.
    - `evaluation`, `metrics`, `eval_every`: as for [`equifed.train`][].
    - `roles`: as for [`equifed.train`][]: for all, or by label for some.
    - `privacy`: as for [`equifed.train`][]: for all, or by label for some. What a plan
        promises is of one run: of a client that is in several of them, whoever sees
        all their models learns more.

    **Returns:**

    For each label the solutions, in the order of the keys, as
    [`equifed.plot.learning_curves`][] takes them.

    **Raises:**

    `ValueError` for what does not fit together, before anything is compiled.

    !!! example

        ```python
        runs = eqf.sweep(
            {f"{rate}": eqf.FedAvg(loss, optax.sgd(rate), batching) for rate in rates},
            lambda key: eqx.nn.MLP(64, 10, 64, 1, key=key),
            loader,
            num_rounds=30,
            keys=jax.random.split(jax.random.key(0), 4),
        )
        eqf.plot.learning_curves(runs, "loss")
        ```
    """
    check_count("num_rounds", num_rounds, least=0)
    check_count("eval_every", eval_every)
    check_evaluations(evaluation, num_rounds)
    seeds = _several(keys)
    for name, given in (("roles", roles), ("privacy", privacy)):
        if isinstance(given, Mapping) and (unknown := set(given) - set(algorithms)):
            raise ValueError(
                f"`{name}` names {unknown.pop()!r}, which is not one of the "
                f"algorithms: {listed(algorithms)}."
            )
    if not algorithms:
        raise ValueError("`algorithms` is empty: give at least one, with a label.")
    if isinstance(model, eqx.Module):
        raise TypeError(
            f"`model` must be a function of a key, which makes one, got {shown(model)}."
            " Write `lambda key: model` to start all runs from this one."
        )
    if loader.mesh is not None:
        raise ValueError(
            "`sweep` runs on one device, but the loader has a mesh. Leave it out, or "
            "call `train` for each run."
        )
    runs: list[_Run] = []
    groups: dict[Any, _Group] = {}
    for label, algorithm in algorithms.items():
        count = loader.num_clients
        own = roles.get(label) if isinstance(roles, Mapping) else roles
        plan = privacy.get(label) if isinstance(privacy, Mapping) else privacy
        states = [
            algorithm.init(model(k), num_clients=count, key=k, roles=own) for k in seeds
        ]
        reported, missing = check_rounds(algorithm, states[0], loader, 1)
        for key, state in zip(seeds, states, strict=True):
            group = groups.setdefault(
                _kind((algorithm, state)), _Group([], [], [], missing)
            )
            # A loss may have numbers of its own, by which it is evaluated too.
            measure = algorithm.loss if metrics is None else metrics
            found = next((e for e in group.evaluations if e.measures(measure)), None)
            if found is None:
                found = evaluations_of(evaluation, measure, algorithm, state, loader)
                found.check_distinct(reported)
            if plan is not None and key is seeds[0]:
                there = {"evaluated": datasets_of(evaluation), "measured": found.names}
                plan.check_run(algorithm, state, loader, num_rounds=num_rounds, **there)
            group.members.append(len(runs))
            group.evaluations.append(found)
            group.plans.append(plan)
            runs.append((algorithm, state, key))
    solutions: dict[int, Solution] = {}
    for group in groups.values():
        those = [runs[i] for i in group.members]
        trained = _train(those, group, loader, num_rounds, eval_every)
        solutions |= dict(zip(group.members, trained, strict=True))
    each = iter(range(len(runs)))
    return {label: [solutions[next(each)] for _ in seeds] for label in algorithms}


def _several(keys: Array | Sequence[PRNGKeyArray]) -> list[PRNGKeyArray]:
    several = list(keys) if isinstance(keys, Sequence) or keys.ndim > 0 else []
    arrays = all(eqx.is_array(key) for key in several)
    if not several or not arrays or not all(map(is_key_of_the_default_kind, several)):
        raise ValueError(
            f"`keys` must be several keys, or a list of one, got {shown(keys)}. Give "
            "`jax.random.split(jax.random.key(0), 4)`, for example."
        )
    return several


def _train(
    runs: list[_Run],
    group: _Group,
    loader: Loader,
    num_rounds: int,
    eval_every: int,
) -> Iterable[Solution]:
    """Runs that are alike, side by side."""
    flat = FlatTree(
        jtu.tree_map(lambda *x: jnp.stack(x) if eqx.is_array(x[0]) else x[0], *runs)
    )
    steps, arrays = compiled(_side_by_side, flat), flat.arrays
    going = jnp.ones(len(runs), bool)
    measured: list[dict[str, Any]] = []
    found: dict[tuple[int, int], Row] = {}

    def first_model() -> Model | None:
        algorithm, state, _ = tree_row(flat.build(arrays), 0)
        return next(iter(algorithm.models(state)), None)

    for round, cohort in loader.cohorts(0, num_rounds):
        group.missing(round, first_model, lambda: cohort)  # noqa: B023
        before = going
        arrays, going, metrics = steps(arrays, going, cohort)
        if not measured:
            # A client of the user's own may report what its loss does not.
            group.evaluations[0].check_distinct(metrics)
        measured.append(metrics)
        last = round + 1 == num_rounds
        due = last or (round + 1) % eval_every == 0
        if any(group.evaluations):
            ran, goes_on = jax.device_get((before, going))
            for i in np.flatnonzero(ran if due else ran & ~goes_on).tolist():
                algorithm, state, _ = tree_row(flat.build(arrays), i)
                found[round, i] = group.evaluations[i](algorithm, state, round)
    stacked = flat.build(arrays)
    histories: list[list[Row]] = [[] for _ in runs]
    for round, values in enumerate(jax.device_get(measured)):
        for i, history in enumerate(histories):
            if not history or not history[-1]["nonfinite_model"]:
                one = {name: x[i] for name, x in values.items()}
                (row,) = rows_of(round, one, None)
                row = with_report(row, loader)
                history.append(row | found.get((round, i), {}))
    for i, history in enumerate(histories):
        algorithm, state, _ = tree_row(stacked, i)
        plan = group.plans[i]
        result = _result(algorithm, loader, history, private=plan is not None)
        if plan is not None:
            history = [
                plan.shown(row, found.get((round, i), ()))
                for round, row in enumerate(history)
            ]
        yield Solution(algorithm.model(state), state, result, history)


def _side_by_side(
    runs: PyTree, going: Bool[Array, " runs"], cohort: Cohort
) -> tuple[list[Array], Bool[Array, " runs"], dict[str, Any]]:
    """A round of runs that are stacked, of which only the arrays are computed."""

    def step(run: _Run, going: Bool[Array, ""]) -> Any:
        algorithm, old, key = run
        new, metrics = round_step(algorithm, old, cohort, key, Executor())
        # `train` stops where a model is no longer finite.
        state = tree_where(going, new, old)
        return (algorithm, state, key), going & ~_ended(metrics), metrics

    axes = (eqx.if_array(0), 0)
    runs, going, metrics = eqx.filter_vmap(step, in_axes=axes)(runs, going)
    return FlatTree(runs).arrays, going, metrics


def _result(
    algorithm: AbstractAlgorithm,
    loader: Loader,
    history: list[Row],
    *,
    private: bool,
) -> RESULTS:
    if not history:
        return RESULTS.successful
    if history[-1]["nonfinite_model"]:
        return RESULTS.nonfinite_model
    watch = Watch(loader, algorithm, history, private=private)
    return watch.result


def _ended(metrics: Mapping[str, Any]) -> Bool[Array, ""]:
    return metrics["nonfinite_model"] > 0


def _kind(tree: PyTree) -> Any:
    """What trees have in common that differ in the numbers of their arrays alone."""
    flat = FlatTree(tree)
    shapes = tuple((x.shape, str(x.dtype)) for x in flat.arrays)
    rest = tuple((type(x), x) for x in flat.rest)
    return flat.treedef, rest, shapes
