"""`equifed run` and `equifed resume`: a training, kept in a folder."""

import dataclasses
import hashlib
import pathlib
import sys
from typing import Annotated

from .._algorithm import AbstractAlgorithm
from .._check import seed_key
from .._checkpoint import Checkpointer
from .._evaluate import Evaluated, FineTune
from .._history import ROUND, Row
from .._logger import JSONLines, Loggers, ProgressBar, TensorBoard, WandB
from .._roles import Roles
from .._training import RESULTS, Solution, sweep, train
from .._types import Model
from ..data import (
    AbstractSampler,
    FederatedDataset,
    Including,
    Loader,
    UniformSampler,
)
from ..privacy import PrivacyPlan
from ..recipes._algorithms import with_ledger
from ..recipes._arguments import ROOT
from ..recipes._privacy import with_plan
from ..recipes._task import Data
from .asked import parsed
from .attacking import drawn_attackers, with_attackers, with_root
from .evaluation import of_clusters, own_of, whose
from .folder import (
    begin,
    CHECKPOINTS,
    forget,
    LEDGER,
    NONFINITE,
    read,
    RESULT,
    write,
)
from .parsing import settings_of
from .sent import sent_by_client
from .settings import Settings


INTERRUPTED = 130  # what shells give for Ctrl-C


@dataclasses.dataclass(frozen=True)
class Made:
    """What a run is made of; that it fits together has been seen."""

    algorithm: AbstractAlgorithm
    model: Model
    roles: Roles | None
    loader: Loader
    evaluation: dict[str, FederatedDataset]
    whose: str
    """Who uses a model."""
    plan: PrivacyPlan | None
    tune: FineTune | None
    """What a client does before it is evaluated."""


def run(args: list[str]) -> int:
    """Trains what the arguments say."""
    settings, output = settings_of(args)
    names = (settings.recipe or f"{settings.task}-{settings.algorithm}", settings.seed)
    folder = pathlib.Path(output or f"runs/{names[0]}-seed{names[1]}")
    # What does not fit together, or cannot be had, is said before a folder is made.
    made = _made(settings)
    begin(folder, settings)
    return _keeping(folder, settings, made)


def resume(args: list[str]) -> int:
    """Goes on with a run, from its newest checkpoint."""
    import tyro

    def arguments(
        run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="its folder.")],
    ) -> str:
        return run

    folder = pathlib.Path(parsed(arguments, args, "equifed resume"))
    settings = read(folder)
    if (folder / RESULT).exists():
        print(f"`{folder}` has come to its end: there is nothing to go on with.")
        return 0
    return _keeping(folder, settings, _made(settings))


def _keeping(folder: pathlib.Path, settings: Settings, made: Made) -> int:
    try:
        solutions = _train(folder, settings, made)
    except (ValueError, TypeError, ImportError):
        forget(folder)
        raise
    except KeyboardInterrupt as error:
        reached = getattr(error, "solution", None)
        rounds = 0 if reached is None else int(reached.state.round)
        print(
            f"\nInterrupted after round {rounds} of {settings.rounds}. Go on with:\n"
            f"  equifed resume {folder}",
            file=sys.stderr,
        )
        return INTERRUPTED
    seeds = range(settings.seed, settings.seed + settings.seeds)
    ends = [
        {"seed": seed, "result": _result(x), "last": _evaluated(x, settings, made)}
        for seed, x in zip(seeds, solutions, strict=True)
    ]
    if settings.ledger:
        ids = made.loader.dataset.client_ids
        sent = [sent_by_client(x.history, ids) for x in solutions]
        parts = zip(seeds, sent, strict=True)
        write(folder / LEDGER, [{"seed": n, "clients": x} for n, x in parts])
    write(folder / RESULT, ends)
    for end in ends:
        numbers = "  ".join(f"{n} {x:.4g}" for n, x in end["last"].items())
        print(f"seed {end['seed']}: {numbers}")
        if end["result"] != "successful":
            print(RESULTS[getattr(RESULTS, end["result"])])
    print(f"kept in {folder}")
    return 0 if all(end["result"] != NONFINITE for end in ends) else 1


def _made(settings: Settings) -> Made:
    algorithm, model = settings.build(), settings.model(seed_key(settings.seed))
    roles = settings.roles(model)
    users, tune = whose(algorithm, model, roles), settings.tune()
    data, evaluation = _loaded(settings)
    if settings.max_examples is not None:
        data = data.max_examples(settings.max_examples, seed=settings.seed)
    if settings.clients_per_round > data.num_clients:
        raise ValueError(
            f"`clients_per_round` must be at most {data.num_clients}, the number of "
            f"clients that train, got {settings.clients_per_round}."
        )
    sampler: AbstractSampler
    sampler = UniformSampler(settings.clients_per_round, seed=settings.seed)
    if settings.has_root:
        data = with_root(data, settings.num_root, seed=settings.seed)
        sampler = Including(sampler, [ROOT])
    if settings.attack is not None and settings.attackers is not None:
        drawn = {"seed": settings.seed, "first": int(settings.has_root)}
        clients = drawn_attackers(data, settings.attackers, **drawn)
        parts = (settings.attack, algorithm, data, clients)
        learned = {"task": settings.of_task, "model": model}
        algorithm, data = with_attackers(*parts, **learned)
    plan = settings.plan(data.num_clients)
    if plan is not None:
        algorithm, sampler = with_plan(algorithm, plan), plan.sampler
        training = set(data.client_ids)
        # On clients who train no noise covers an evaluation.
        evaluation = {
            name: dataset
            for name, dataset in evaluation.items()
            if training.isdisjoint(dataset.client_ids)
        }
    batching = settings.batching.build()
    loader = Loader(data, sampler, batching)
    if settings.clock is not None:
        known = {"roles": roles, "seed": settings.seed}
        clock = settings.clock.build(algorithm, model, loader, **known)
        loader = Loader(data, sampler, batching, clock=clock)
    if settings.ledger:
        algorithm = with_ledger(algorithm)
    return Made(algorithm, model, roles, loader, evaluation, users, plan, tune)


def _loaded(settings: Settings) -> Data:
    task = settings.of_task
    try:
        return task.load(settings.data)
    except ConnectionError as error:
        raise ConnectionError(
            f"{error}. What is incomplete of a download is not used: try again, or "
            f"give a folder with {task.files}: `--data FOLDER`."
        ) from error


def _train(folder: pathlib.Path, settings: Settings, made: Made) -> list[Solution]:
    task, algorithm, loader = settings.of_task, made.algorithm, made.loader
    evaluation: dict[str, Evaluated] = {}
    if made.whose != "cluster":
        for name, dataset in made.evaluation.items():
            own = own_of(dataset, loader.dataset, made.tune)
            plain = made.whose == "all" and made.tune is None
            evaluation[name] = dataset if plain else own
    common = {
        "num_rounds": settings.rounds,
        "evaluation": evaluation,
        "metrics": task.metrics,
        "eval_every": settings.eval_every,
        "roles": made.roles,
        "privacy": made.plan,
    }
    if settings.seeds > 1:
        keys = [seed_key(settings.seed + i) for i in range(settings.seeds)]
        runs = {settings.algorithm: algorithm}
        found = sweep(
            runs, lambda key: settings.model(key), loader, keys=keys, **common
        )
        solutions = found[settings.algorithm]
        for i, solution in enumerate(solutions):
            _write_rows(folder / f"metrics-{settings.seed + i}.jsonl", solution.history)
        return solutions
    key = seed_key(settings.seed)
    solution = train(
        *(algorithm, made.model, loader),
        key=key,
        logger=_logger(folder, settings),
        checkpointer=Checkpointer(
            folder / CHECKPOINTS,
            every=settings.saved_every,
            keep=settings.keep_checkpoints,
        ),
        rounds_per_call=settings.rounds_per_call,
        **common,
    )
    return [solution]


def _logger(folder: pathlib.Path, settings: Settings) -> Loggers:
    # What no noise covers is not shown.
    metric = "loss" if settings.privacy is None else "epsilon"
    loggers = [ProgressBar(metric), JSONLines(folder / "metrics.jsonl")]
    if settings.tensorboard:
        loggers.append(TensorBoard(folder / "tensorboard"))
    if settings.wandb is not None:
        place = str(folder.resolve()).encode()  # by which a resumed run is known
        loggers.append(
            WandB(
                project=settings.wandb,
                name=folder.name,
                id=hashlib.sha256(place).hexdigest()[:16],
                resume="allow",
                config=settings.as_json(),
            )
        )
    return Loggers(*loggers)


def _write_rows(path: pathlib.Path, history: list[Row]) -> None:
    logger = JSONLines(path)
    logger.start(len(history), 0)
    with logger:
        for row in history:
            logger.log(row[ROUND], {n: x for n, x in row.items() if n != ROUND})


def _result(solution: Solution) -> str:
    names = ("successful", "nonfinite_model", "nonfinite_loss", "no_messages")
    return next(n for n in names if solution.result == getattr(RESULTS, n))


def _evaluated(solution: Solution, settings: Settings, made: Made) -> dict[str, float]:
    """What the last evaluation measured, and the epsilon; that of clusters is made
    here."""
    if made.whose == "cluster":
        parts = (made.loader.dataset, made.evaluation, settings.of_task.metrics)
        return of_clusters(made.algorithm, solution, *parts)
    last = solution.history[-1] if solution.history else {}
    return {n: float(x) for n, x in last.items() if "/" in n or n.endswith("epsilon")}
