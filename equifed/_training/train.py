"""Training: rounds, and between them what most programs want to do: log, evaluate,
save, and stop when the model is no longer finite.
"""

import contextlib
from collections.abc import Mapping

import jax
import jax.tree_util as jtu
from jaxtyping import PRNGKeyArray

from .._algorithm import AbstractAlgorithm
from .._check import check_count, checked
from .._checkpoint import Checkpointer
from .._evaluate import Evaluated
from .._executor import Executor
from .._logger import AbstractLogger, NoLogger
from .._processes import is_first
from .._roles import Roles, split_model
from .._round.state import begin
from .._store import ClientStates
from .._types import Measure, Model
from ..data import AbstractLoader
from ..privacy import ExampleLevelPlan, PrivacyPlan
from .best import Best
from .evaluations import check_evaluations, datasets_of, evaluations_of
from .reached import Keeping
from .record import Record
from .rounds import Calls, check_rounds, stateful_on_a_stream
from .saving import Saving
from .solution import Solution
from .stop import AbstractStop


@checked(
    loader="Make one with `Loader(dataset, sampler, algorithm.batching)`.",
    evaluation="Give `{'test': dataset}`.",
    stop="Write `Target('test/accuracy', 0.97, mode='max')`, for example.",
)
def train(
    algorithm: AbstractAlgorithm,
    model: Model,
    loader: AbstractLoader,
    *,
    num_rounds: int,
    key: PRNGKeyArray,
    evaluation: Mapping[str, Evaluated] | None = None,
    metrics: Measure | None = None,
    eval_every: int = 10,
    stop: AbstractStop | None = None,
    logger: AbstractLogger = NoLogger(),  # noqa: B008 (holds no array)
    checkpointer: Checkpointer | None = None,
    executor: Executor | None = None,
    rounds_per_call: int = 1,
    roles: Roles | None = None,
    client_states: ClientStates = None,
    privacy: PrivacyPlan | ExampleLevelPlan | None = None,
) -> Solution:
    """Trains a model.

    **Arguments:**

    - `algorithm`: the federated algorithm.
    - `model`: where to start. What is trained of it is copied.
    - `loader`: which clients take part in which round, with which examples.
    - `num_rounds`: the number of rounds.
    - `key`: the experiment's root key.
    - `evaluation`: datasets to evaluate the model on, by name; as an
        [`equifed.ClientQuantiles`][], with quantiles over the clients; as
        [`equifed.SampledClients`][], some of the clients only: those of the round, say;
        as [`equifed.Personal`][], each client's own model.
    - `metrics`: what to measure on them; the algorithm's loss if not given. See
        [`equifed.evaluate`][].
    - `eval_every`: evaluate after every so many rounds, and after the last one.
    - `stop`: what may end the training before its last round: an
        [`equifed.Target`][], an [`equifed.Patience`][], or an
        [`equifed.AbstractStop`][] of your own. It is asked where the training is
        evaluated, and the solution then has the best model that was seen there.
    - `logger`: where each round's metrics go; if several processes share the
        training, on the first of them only.
    - `checkpointer`: saves the state every few rounds. If it finds a checkpoint of
        this training, training goes on from there, to the same bits.
    - `executor`: how to run the rounds.
    - `rounds_per_call`: how many rounds at most one call of the compiled program runs.
        More than one is faster where a round takes less than about a millisecond.
    - `roles`: which of the model's arrays are shared, personal or frozen: see
        [`equifed.roles`][].
    - `client_states`: where what each client keeps (a control variate, a memory) lies,
        which changes no bit of the result: `"device"`, on every device; `"sharded"`,
        spread over those of the loader's mesh; `"host"`, in the host's memory; or a
        folder on a disk, in which only clients that took part take up room. By default
        on the device, if a quarter of the free memory of one holds it (on a CPU: if 1
        GiB holds all copies), and if not, on the host, or spread over accelerators.
        Then `solution.state.clients` has [`equifed.ClientRows`][] in place of arrays.
    - `privacy`: what is promised to the clients, and held against this run before it
        begins. The history then has the `epsilon` of the rounds up to each, and of the
        metrics only those that the plan covers or names: see
        [`equifed.privacy.PrivacyPlan`][], and [`equifed.privacy.ExampleLevelPlan`][].

    **Returns:**

    An [`equifed.Solution`][]. If `stop` ended the training, its `result` says so. If
    the model became non-finite, its `result` and a warning say so, and its state is the
    last good one; likewise if the model is finite but a round's loss is not. Other
    warnings tell of the first round in which nobody took part, or no client had a
    finite message, or whose aggregator rejected it, which changed nothing, or another
    metric of the training is not finite; and of a training whose rounds were all
    rejected. Each names the example at fault, if there is one.

    If Ctrl-C or an error ends the training, the exception has an attribute `solution`:
    what was reached before it, and `RESULTS.interrupted`.

    **Raises:**

    `ValueError` for arguments that do not fit together, or, after the first round, a
    metric of `stop` that the rounds do not have; or an id that has no row in a
    table which the loss or a metric reads, before anything is compiled; of data that is
    streamed, before its round.
    """
    check_count("num_rounds", num_rounds, least=0)
    check_count("eval_every", eval_every)
    check_count("rounds_per_call", rounds_per_call)
    check_evaluations(evaluation, num_rounds)
    mesh = loader.mesh
    logger = logger if is_first(mesh) else NoLogger()
    count = _num_clients(algorithm, model, loader, key, roles)
    state = algorithm._init(model, count, key, roles, client_states, mesh)
    evaluations = evaluations_of(evaluation, metrics, algorithm, state, loader)
    reported, missing = check_rounds(algorithm, state, loader, rounds_per_call)
    evaluations.check_distinct(reported)
    if privacy is not None:
        there = {"evaluated": datasets_of(evaluation), "measured": evaluations.names}
        privacy.check_run(algorithm, state, loader, num_rounds=num_rounds, **there)
    best = Best(stop, eval_every, algorithm.model(state), state)
    best.check_asked(algorithm, state, evaluation or {}, evaluations.names, privacy)
    looks = [eval_every] if evaluations or stop is not None else []
    saving = Saving(checkpointer, algorithm, best, privacy, roles)
    with checkpointer or contextlib.nullcontext():  # nothing on disk is touched before
        state, history = saving.restored(state, loader, key, num_rounds)
        logger.start(num_rounds, number := int(state.round))
        record = Record(
            *(history, number, num_rounds),
            algorithm=algorithm,
            evaluations=evaluations,
            eval_every=eval_every,
            best=best,
            loader=loader,
            reported=reported,
            logger=logger,
            privacy=privacy,
        )
        # A restored one may be one that had ended.
        stopped = best.ends(history, finished=record.finished)
        calls = Calls(
            *(algorithm, state, loader),
            num_rounds=number if stopped else num_rounds,
            key=key,
            executor=executor,
            rounds_per_call=rounds_per_call,
            missing=missing,
            breaks=[*looks, *saving.breaks],
            stop_nonfinite=True,
            owned=True,
        )
        with Keeping(calls, algorithm, history, num_rounds, checkpointer), logger:
            for state, values, ran in calls:
                record.add(values, int(ran) if rounds_per_call > 1 else None, state)
                if record.diverged:
                    break
                best.see(history, record.model, state)
                stopped = best.ends(history, finished=record.finished)
                last = stopped or record.finished
                saving.after(record.number, state, history, last=last)
                if stopped:
                    break
    chosen, best_round = best.choose(history, algorithm.model(state))
    result = record.result_if(stopped=stopped)
    return Solution(chosen, state, result, history, best_round)


def _num_clients(
    algorithm: AbstractAlgorithm,
    model: Model,
    loader: AbstractLoader,
    key: PRNGKeyArray,
    roles: Roles | None,
) -> int:
    if loader.num_clients is not None:
        return loader.num_clients
    parts = split_model(model, roles)[:2]
    begun = jax.eval_shape(lambda: begin(algorithm, *parts, num_clients=1, key=key))
    if jtu.tree_leaves(begun.clients):
        raise stateful_on_a_stream(algorithm)
    return 1
