"""What a run is: all of its settings, as they are written down and read again."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .._algorithm import AbstractAlgorithm, AbstractClusters
from .._check import check_count, check_kind, check_seed
from .._evaluate import FineTune
from .._roles import Role, Roles
from .._types import Model
from ..privacy import PrivacyPlan
from ..recipes import (
    algorithm,
    Batching,
    Privacy,
    Recipe,
    recipe as recipe_of,
    Task,
    task,
)
from ..recipes._algorithms import build, needs_root
from ..recipes._arguments import arguments_of, as_json, checked_numbers, from_json
from ..recipes._names import check_name
from ..recipes._recipe import check_one_aggregator
from ..recipes._roles import roles_of
from .attacking import Attack


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run.

    **Arguments:**

    - `clients_per_round`: how many clients take part in a round.
    - `power_of_choice`: how many of these train, those whose loss is highest; all, if
        not given.
    - `rounds`: the number of rounds.
    - `personal`: parts of the model that each client trains for itself and keeps, by
        their paths (`layers.0`), or `head`, `body` or `norms`; if not given, those
        that the algorithm needs.
    - `frozen`: parts that nobody trains, likewise.
    - `batching`: how a client goes through its examples.
    - `max_examples`: how many examples a client has at most.
    - `seed`: of the model, of who takes part, and of all else that is random.
    - `seeds`: how many seeds to train in one program, from `seed` on.
    - `attackers`: how many of the clients attack, drawn by the seed.
    - `root_examples`: how many examples the server has, of `fltrust` alone: drawn from
        those of all clients, and taken away from them; 100 if not given, as in its
        paper.
    - `fine_tune`: for how many epochs a client tunes its model before it is evaluated;
        if not given, it does not.
    - `eval_every`: after how many rounds to evaluate; after the last one, in any case.
    - `checkpoint_every`: after how many rounds to save where the training is; if not
        given, as often as it is evaluated, and never with several seeds.
    - `keep_checkpoints`: how many of them to keep.
    - `rounds_per_call`: how many rounds one call of the compiled program runs at most.
    - `data`: a folder with the data's files, if they are not to be downloaded.
    - `tensorboard`: whether to log for TensorBoard, beside the lines of JSON.
    - `wandb`: the project at Weights & Biases to log to, if any.
    - `attack`: what the attackers do.
    - `privacy`: what is promised to the clients, if anything is; a recipe's.
    """

    task: str
    algorithm: str
    numbers: Mapping[str, Any]
    personal: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    batching: Batching = Batching()
    clients_per_round: int = 10
    power_of_choice: int | None = None
    rounds: int = 100
    max_examples: int | None = None
    seed: int = 0
    seeds: int = 1
    attack: Attack | None = None
    attackers: int | None = None
    root_examples: int | None = None
    fine_tune: int | None = None
    eval_every: int = 10
    checkpoint_every: int | None = None
    keep_checkpoints: int = 1
    rounds_per_call: int = 1
    data: str | None = None
    tensorboard: bool = False
    wandb: str | None = None
    recipe: str | None = None
    privacy: Privacy | None = None

    def __post_init__(self) -> None:
        task(self.task)
        checked_numbers(algorithm(self.algorithm), self.numbers)
        check_one_aggregator(self.privacy, self.numbers)
        counts = ("clients_per_round", "rounds", "seeds", "eval_every")
        for name in (*counts, "keep_checkpoints", "rounds_per_call"):
            check_count(name, getattr(self, name))
        optional = ("max_examples", "fine_tune", "checkpoint_every")
        for name in (*optional, "attackers", "root_examples"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.power_of_choice is not None:
            most = self.clients_per_round
            check_count("power_of_choice", self.power_of_choice, most=most)
            if issubclass(algorithm(self.algorithm), AbstractClusters):
                raise ValueError(
                    "`power_of_choice` compares clients by the loss of one model, and "
                    f"{self.algorithm!r} trains several. Leave it out."
                )
        self._check_server_and_attackers()
        check_seed(self.seed)
        if self.seeds > 1:
            self._check_one_program()

    def _check_server_and_attackers(self) -> None:
        if (self.attack is None) != (self.attackers is None):
            raise ValueError(
                "`attack` says what attackers do, and `attackers` how many clients "
                "they are. Give both, `--attack alie --attackers 5`, or neither."
            )
        if self.attack is not None and self.privacy is not None:
            raise ValueError(
                "Of a training with attackers no privacy is known, and this recipe "
                "promises some. Leave `attack` out, or take a recipe without privacy."
            )
        if self.root_examples is not None and not self.has_root:
            raise ValueError(
                "`root_examples` are the server's own, and of "
                f"{self.algorithm!r} it has none. Leave it out, or take `fltrust`."
            )

    def _check_one_program(self) -> None:
        apart = {
            "checkpoint_every": self.checkpoint_every is not None,
            "tensorboard": self.tensorboard,
            "wandb": self.wandb is not None,
            "rounds_per_call": self.rounds_per_call > 1,
        }
        for name, given in apart.items():
            if given:
                raise ValueError(
                    f"`seeds={self.seeds}` are trained side by side in one program, "
                    f"which has no `{name}`. Leave `--{name.replace('_', '-')}` out, "
                    "or run one seed after another."
                )

    @property
    def of_task(self) -> Task:
        return task(self.task)

    @property
    def has_root(self) -> bool:
        """Whether the server has examples of its own."""
        return needs_root(algorithm(self.algorithm))

    @property
    def num_root(self) -> int:
        """How many examples the server has, where it has some."""
        return 100 if self.root_examples is None else self.root_examples

    @property
    def saved_every(self) -> int:
        return self.checkpoint_every or self.eval_every

    def plan(self, num_clients: int) -> PrivacyPlan | None:
        """What is promised to so many clients, if anything is."""
        if self.privacy is None:
            return None
        return self.privacy.plan(
            num_clients=num_clients,
            clients_per_round=self.clients_per_round,
            rounds=self.rounds,
            seed=self.seed,
        )

    def build(self) -> AbstractAlgorithm:
        """The algorithm; without what a plan puts into it."""
        cls, chosen = algorithm(self.algorithm), self.power_of_choice
        parts = self.numbers, self.of_task, self.batching
        return build(cls, *parts, num_chosen=chosen)

    def tune(self) -> FineTune | None:
        """What a client does before it is evaluated."""
        if self.fine_tune is None:
            return None
        cls = algorithm(self.algorithm)
        optim = checked_numbers(cls, self.numbers).get("client_optim")
        if optim is None or issubclass(cls, AbstractClusters):
            what = "no `client_optim`" if optim is None else "a model for each cluster"
            raise ValueError(
                "`fine_tune` tunes a client's model by the algorithm's `client_optim`, "
                f"and {self.algorithm!r} has {what}. Leave it out, or call "
                "`equifed.evaluate_personal` after the training."
            )
        batching = Batching(batch_size=self.batching.batch_size, epochs=self.fine_tune)
        return FineTune(self.of_task.loss, optim.build(0), batching.build())

    def roles(self, model: Model) -> Roles | None:
        """Which of the model's arrays are shared, personal or frozen."""
        named: dict[Role, tuple[str, ...]] = {
            "personal": self.personal,
            "frozen": self.frozen,
        }
        return roles_of(algorithm(self.algorithm), self.of_task, model, named)

    def as_json(self) -> dict[str, Any]:
        """All settings, as JSON has them."""
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        numbers = {name: as_json(x) for name, x in self.numbers.items()}
        return out | {
            "numbers": numbers,
            "batching": dataclasses.asdict(self.batching),
            "attack": self.attack and self.attack.as_json(),
            "privacy": self.privacy and dataclasses.asdict(self.privacy),
        }


def of_recipe(recipe: Recipe) -> dict[str, Any]:
    """A recipe's settings; the others are left as they are."""
    return {
        "task": recipe.task.name,
        "algorithm": recipe.algorithm_name,
        "numbers": checked_numbers(recipe.algorithm, recipe.numbers),
        "personal": (),
        "frozen": (),
        "batching": recipe.batching,
        "clients_per_round": recipe.clients_per_round,
        "power_of_choice": None,
        "rounds": recipe.rounds,
        "max_examples": recipe.max_examples,
        "attack": None,
        "attackers": None,
        "root_examples": None,
        "fine_tune": None,
        "eval_every": recipe.eval_every,
        "privacy": recipe.privacy,
    }


def from_json_dict(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that were written down."""
    known = {f.name: f for f in dataclasses.fields(Settings)}
    for name in values:
        check_name("setting", name, known)
    out = dict(values)
    missing = [name for name in ("task", "algorithm", "numbers") if name not in out]
    if missing:
        raise ValueError(
            f"A configuration needs `task`, `algorithm` and `numbers`, and has no "
            f"{missing[0]!r}. Give one that a run has saved: its `config.json`."
        )
    for name in ("personal", "frozen"):
        names = out.get(name, ())
        check_kind(name, names, (list, tuple), 'Give `["head"]`, for example.')
        out[name] = tuple(map(str, names))
    if isinstance(out.get("batching"), Mapping):
        out["batching"] = Batching(**out["batching"])
    if isinstance(out.get("privacy"), Mapping):
        out["privacy"] = Privacy(**out["privacy"])
    if isinstance(out.get("attack"), Mapping):
        numbers = {f.name: f for f in dataclasses.fields(Attack)}
        for name in out["attack"]:
            check_name("numbers of attack", name, numbers)
        out["attack"] = Attack(**{"kind": None, **out["attack"]})
    arguments = arguments_of(algorithm(out["algorithm"]))
    out["numbers"] = {
        name: from_json(arguments[name], x) if name in arguments else x
        for name, x in out["numbers"].items()
    }
    return out


def differs(settings: Settings) -> list[str]:
    """In which settings a run is not its recipe."""
    if settings.recipe is None:
        return []
    recipe = recipe_of(settings.recipe)
    wanted = of_recipe(recipe)
    wanted["numbers"] = _whole(recipe.algorithm, wanted["numbers"])
    numbers = _whole(algorithm(settings.algorithm), settings.numbers)
    ours = {name: getattr(settings, name) for name in wanted} | {"numbers": numbers}
    return [name for name, x in wanted.items() if ours[name] != x]


def _whole(cls: type[AbstractAlgorithm], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers, and the defaults of those that are not given."""
    arguments = arguments_of(cls)
    return {name: numbers.get(name, x.default) for name, x in arguments.items()}
