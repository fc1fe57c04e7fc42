"""Training is a loop over rounds.

`rounds` is the loop as an iterator, for programs that want to do something of their
own between rounds. `train` is what most programs want to do: log, evaluate, save, and
stop when the model is no longer finite.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from beartype import beartype
from jaxtyping import Array, jaxtyped, PRNGKeyArray

from ._algorithm import AbstractAlgorithm, State
from ._algorithm.loop import Stepper
from ._checkpoint import Checkpointer
from ._client import check_loss
from ._evaluate import check_evaluation, Evaluator
from ._executor import Executor
from ._logger import AbstractLogger, NoLogger
from ._solution import RESULTS, Solution
from ._tree import params_of
from ._types import Measure, Model
from .data import FederatedDataset, Loader, StreamLoader


@jaxtyped(typechecker=beartype)
def rounds(
    algorithm: AbstractAlgorithm,
    state: State,
    loader: Loader | StreamLoader,
    *,
    num_rounds: int,
    key: PRNGKeyArray,
    executor: Executor | None = None,
) -> Iterator[tuple[State, dict[str, Array]]]:
    """Runs rounds one after another, up to round `num_rounds`.

    The state that is yielded is used up by the next round: what you want to keep of
    it, copy before going on (`jax.tree.map(jnp.copy, state.model)`).

    **Arguments:**

    - `state`: where to start: what `algorithm.init` returned, or a restored state.
        Cohorts are drawn from round `state.round` on.
    - `num_rounds`: the number of rounds in all, those behind `state` included.
    - `key`: the experiment's root key.
    - `executor`: how to run the rounds; on the loader's devices if not given.

    **Returns:**

    An iterator of pairs: the state after each round, and the round's metrics (still on
    the device: reading one waits for the round).

    !!! example

        ```python
        for state, metrics in eqf.rounds(
            algorithm, state, loader, num_rounds=100, key=key
        ):
            print(int(state.round), float(metrics["loss"]))
        ```
    """
    if executor is None:
        executor = Executor(mesh=loader.mesh)
    if loader.batching != algorithm.batching:
        raise ValueError(
            f"The loader's batching is {loader.batching!r}, but the algorithm's is "
            f"{algorithm.batching!r}. Build the loader with "
            "`Loader(dataset, sampler, algorithm.batching)`."
        )
    sizes = {x.shape[0] for x in jtu.tree_leaves(state.clients) if eqx.is_array(x)}
    if loader.num_clients is None and sizes:
        raise _stateful_on_a_stream(algorithm)
    if isinstance(loader, Loader) and sizes - {loader.num_clients}:
        raise ValueError(
            f"The state is of {sizes.pop()} clients, but the loader has "
            f"{loader.num_clients}. Make it with "
            "`algorithm.init(model, num_clients=loader.num_clients)`."
        )
    if isinstance(loader, Loader):
        # By shape alone, so that the error can name the client.
        client, example = loader.dataset.client_ids[0], loader.dataset.example
        check_loss(algorithm.client.loss, state.model, example, f"client {client!r}")
    return _rounds(algorithm, state, loader, num_rounds, key, executor)


def _rounds(algorithm, state, loader, num_rounds, key, executor):
    start = int(state.round)
    step = Stepper(algorithm, state, key=key, executor=executor)
    del state  # The caller may have let go of it.
    for _, cohort in loader.cohorts(start, num_rounds):
        yield step(cohort)


@jaxtyped(typechecker=beartype)
def train(
    algorithm: AbstractAlgorithm,
    model: Model,
    loader: Loader | StreamLoader,
    *,
    num_rounds: int,
    key: PRNGKeyArray,
    evaluation: Mapping[str, FederatedDataset] | None = None,
    metrics: Measure | None = None,
    eval_every: int = 10,
    logger: AbstractLogger = NoLogger(),  # noqa: B008 (holds no array)
    checkpointer: Checkpointer | None = None,
    executor: Executor | None = None,
) -> Solution:
    """Trains a model.

    **Arguments:**

    - `algorithm`: the federated algorithm.
    - `model`: where to start. It is copied.
    - `loader`: which clients take part in which round, with which examples.
    - `num_rounds`: the number of rounds.
    - `key`: the experiment's root key.
    - `evaluation`: datasets to evaluate the model on, by name.
    - `metrics`: what to measure on them; the algorithm's loss if not given. See
        [`equifed.evaluate`][].
    - `eval_every`: evaluate after every so many rounds, and after the last one.
    - `logger`: where each round's metrics go.
    - `checkpointer`: saves the state every few rounds. If it finds a checkpoint of
        this training, training goes on from there, to the same bits.
    - `executor`: how to run the rounds; on the loader's devices if not given.

    **Returns:**

    An [`equifed.Solution`][]. If the model became non-finite, its `result` and a
    warning say so, and its state is the last good one.

    **Raises:**

    `ValueError` for arguments that do not fit together, before anything is compiled.
    """
    if num_rounds < 0:
        raise ValueError(f"`num_rounds` must be at least 0, got {num_rounds}.")
    if eval_every < 1:
        raise ValueError(f"`eval_every` must be at least 1, got {eval_every}.")
    metrics = algorithm.client.loss if metrics is None else metrics
    evaluators = {
        name: Evaluator(dataset, metrics)
        for name, dataset in (evaluation or {}).items()
    }
    state = algorithm.init(model, num_clients=_num_clients(algorithm, model, loader))
    history: list[dict[str, Any]] = []
    name = type(algorithm).__name__
    if checkpointer is not None:
        restored = checkpointer.restore(state, algorithm=name)
        if restored is not None:
            _, state, history = restored
            del restored

    result = RESULTS.successful
    for where, dataset in (evaluation or {}).items():
        model = eqx.nn.inference_mode(state.model)
        check_evaluation(metrics, model, dataset.example, f"{where!r}")
    iterator = rounds(
        algorithm, state, loader, num_rounds=num_rounds, key=key, executor=executor
    )
    number = int(state.round)
    logger.start(num_rounds, number)
    with logger:
        for state, values in iterator:
            number += 1
            row = {"round": number, **_to_host(values)}
            if row["nonfinite_model"]:
                result = RESULTS.nonfinite_model
            finished = number == num_rounds or result != RESULTS.successful
            if number % eval_every == 0 or finished:
                for dataset, evaluator in evaluators.items():
                    for metric, value in evaluator(state.model).items():
                        row[f"{dataset}/{metric}"] = value
            history.append(row)
            logger.log(
                number, {k: v for k, v in row.items() if isinstance(v, int | float)}
            )
            if result != RESULTS.successful:
                warnings.warn(RESULTS[result], stacklevel=2)
                break
            if checkpointer is not None and (
                checkpointer.should_save(number) or finished
            ):
                checkpointer.save(number, state, history, algorithm=name)
    return Solution(state.model, state, result, history)


def _num_clients(
    algorithm: AbstractAlgorithm, model: Model, loader: Loader | StreamLoader
) -> int:
    if loader.num_clients is not None:
        return loader.num_clients
    params = jax.eval_shape(lambda: algorithm.client.init(params_of(model)))
    if jtu.tree_leaves(params):
        raise _stateful_on_a_stream(algorithm)
    return 1


def _stateful_on_a_stream(algorithm: AbstractAlgorithm) -> ValueError:
    return ValueError(
        f"`{type(algorithm).__name__}` keeps a state for each client, but a stream "
        "does not know its clients. Use a `FederatedDataset` and a `Loader`."
    )


def _to_host(values: dict[str, Array]) -> dict[str, Any]:
    return {name: np.asarray(x).tolist() for name, x in jax.device_get(values).items()}
