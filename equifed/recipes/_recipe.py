"""An experiment of the literature: every number of it, and where it is from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .._algorithm import AbstractAlgorithm, AbstractAsynchronous
from .._check import check_count, check_kind, checked
from ..data import AbstractSampler, FederatedDataset, Loader, UniformSampler
from ..privacy import PrivacyPlan
from ._algorithms import ALGORITHMS, build, name_of, needs_root
from ._arguments import checked_numbers
from ._batching import Batching
from ._compression import check_compressed, Compression
from ._names import found
from ._privacy import Privacy, with_plan
from ._published import Published
from ._task import Task
from ._tasks import TASKS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A task, an algorithm, and all numbers, with the source of each.

    !!! example

        ```python
        recipe = eqf.recipes.recipe("digits-fedavg")
        train, evaluation = recipe.task.load()
        solution = eqf.train(
            recipe.build(),
            recipe.task.model(key),
            recipe.loader(train, seed=0),
            num_rounds=recipe.rounds,
            key=key,
            evaluation=evaluation,
            metrics=recipe.task.metrics,
        )
        ```

    **Arguments:**

    - `name`: what `--recipe` takes.
    - `task`: the task, or its name.
    - `algorithm`: the algorithm's class.
    - `numbers`: its arguments by name: numbers, choices, optimisers such as
        [`equifed.recipes.SGD`][], and an [`equifed.recipes.Aggregator`][] or its kind.
    - `batching`: how clients go through their examples.
    - `clients_per_round`: how many of them take part in a round.
    - `rounds`: the number of rounds.
    - `source`: where the numbers are from.
    - `sources`: where those are from that have a source of their own, by name.
    - `published`: a figure to compare with; `None` if there is none that is certain.
    - `without`: why there is none.
    - `max_examples`: how many examples a client has at most.
    - `eval_every`: after how many rounds it is evaluated.
    - `notes`: in what it differs from its source.
    - `compress`, `compress_down`: how what clients send, and are sent, is compressed.
    - `privacy`: what is promised to the clients, if anything is: then `plan` gives what
        `build` and [`equifed.train`][] take.
    """

    name: str
    task: Task
    algorithm: type[AbstractAlgorithm]
    numbers: Mapping[str, Any]
    batching: Batching
    clients_per_round: int
    rounds: int
    source: str
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    published: Published | None = None
    without: str = ""
    max_examples: int | None = None
    eval_every: int = 10
    notes: str = ""
    privacy: Privacy | None = None
    compress: Compression | None = None
    compress_down: Compression | None = None

    def __post_init__(self) -> None:
        check_kind("task", self.task, Task, "Write `equifed.recipes.task('...')`.")
        found("algorithm", getattr(self.algorithm, "__name__", "").lower(), ALGORITHMS)
        if needs_root(self.algorithm):
            raise ValueError(
                f"`{self.algorithm.__name__}` needs a client that holds the server's "
                "examples, which a recipe does not make. Run it by `equifed run "
                f"--algorithm {self.algorithm_name}`."
            )
        if issubclass(self.algorithm, AbstractAsynchronous):
            raise ValueError(
                f"`{self.algorithm.__name__}` needs a clock that says how old each "
                "message's model is, which a recipe does not make. Run it by `equifed "
                f"run --algorithm {self.algorithm_name} --clock asynchronous`."
            )
        check_kind("batching", self.batching, Batching)
        for name in ("clients_per_round", "rounds", "eval_every"):
            check_count(name, getattr(self, name))
        if self.max_examples is not None:
            check_count("max_examples", self.max_examples)
        checked_numbers(self.algorithm, self.numbers)
        check_one_aggregator(self.privacy, self.numbers)
        check_compressed(self.privacy, self.compress, self.compress_down)
        if not self.source:
            raise ValueError(
                "`source` must say where the numbers are from, got ''. Write the paper "
                "and its table, or the file and its commit."
            )
        if (self.published is None) != bool(self.without):
            raise ValueError(
                "`without` must say why there is no figure to compare with, if and "
                f"only if `published` is None, got without={self.without!r}."
            )

    @checked()
    def source_of(self, name: str) -> str:
        """Where a number is from.

        **Arguments:**

        - `name`: a name in `numbers`, or `"batching"`, `"clients_per_round"`,
            `"rounds"`, `"privacy"`, `"compress"`, `"compress_down"`.
        """
        known = [*self.numbers, "batching", "clients_per_round", "rounds", "privacy"]
        known += ["compress", "compress_down"]
        found("name", name, dict.fromkeys(known))
        return self.sources.get(name, self.source)

    @checked()
    def plan(self, train: FederatedDataset, *, seed: int) -> PrivacyPlan:
        """What is promised to the clients, as what is run.

        **Arguments:**

        - `train`: the clients that train.
        - `seed`: that of who is drawn.

        **Raises:**

        `ValueError` if the recipe promises nothing.
        """
        if self.privacy is None:
            raise ValueError(
                f"The recipe {self.name!r} promises nothing: it has no `privacy`. "
                "Train without a plan."
            )
        return self.privacy.plan(
            num_clients=train.num_clients,
            clients_per_round=self.clients_per_round,
            rounds=self.rounds,
            seed=seed,
        )

    @checked()
    def build(self, plan: PrivacyPlan | None = None) -> AbstractAlgorithm:
        """The algorithm.

        **Arguments:**

        - `plan`: that of the recipe, if it has `privacy`.
        """
        if (plan is None) != (self.privacy is None):
            raise ValueError(
                f"The recipe {self.name!r} "
                + (
                    "promises nothing, but a `plan` was given. Leave it out."
                    if self.privacy is None
                    else "promises privacy. Write `recipe.build(recipe.plan(train, "
                    "seed=0))`, and give `train` the same plan."
                )
            )
        made = build(
            *(self.algorithm, self.numbers, self.task, self.batching),
            up=self.compress,
            down=self.compress_down,
        )
        return made if plan is None else with_plan(made, plan)

    @checked()
    def loader(self, train: FederatedDataset, *, seed: int) -> Loader:
        """Who takes part in which round.

        **Arguments:**

        - `train`: the clients that train.
        - `seed`: that of who is drawn, and of the order of examples.
        """
        if self.max_examples is not None:
            train = train.max_examples(self.max_examples, seed=seed)
        sampler: AbstractSampler = UniformSampler(self.clients_per_round, seed=seed)
        if self.privacy is not None:
            sampler = self.privacy.sampler(
                num_clients=train.num_clients,
                clients_per_round=self.clients_per_round,
                seed=seed,
            )
        return Loader(train, sampler, self.batching.build())

    def small(self) -> "Recipe":
        """The same algorithm with the same kinds of numbers on the embedded digits, for
        three rounds: whether it runs, not how good it is."""
        batching = dataclasses.replace(
            self.batching,
            batch_size=min(self.batching.batch_size, 20),
            epochs=None
            if self.batching.epochs is None
            else min(self.batching.epochs, 2),
            steps=None if self.batching.steps is None else min(self.batching.steps, 5),
        )
        numbers = {name: _smaller(name, x) for name, x in self.numbers.items()}
        return dataclasses.replace(
            self,
            name=f"{self.name}-small",
            task=TASKS["digits-dense"],
            numbers=numbers,
            batching=batching,
            clients_per_round=min(self.clients_per_round, 6),
            rounds=3,
            eval_every=3,
            published=None,
            without="the small form is of other data",
        )

    @property
    def algorithm_name(self) -> str:
        """What `--algorithm` takes for its class."""
        return name_of(self.algorithm)


def _smaller(name: str, number: Any) -> Any:
    """A number of three rounds on the digits."""
    if name == "start_round":
        return min(number, 1)
    if name == "client_optim" and number.learning_rate > 1:  # of a much flatter loss
        return dataclasses.replace(number, learning_rate=0.1)
    return number


def check_one_aggregator(privacy: Privacy | None, numbers: Mapping[str, Any]) -> None:
    """Refuses an aggregator beside that of a plan."""
    if privacy is not None and numbers.get("aggregator") is not None:
        raise ValueError(
            "`aggregator` and `privacy` are two ways to sum messages up, got both. "
            "Leave `aggregator` out: it is the plan's mechanism."
        )
