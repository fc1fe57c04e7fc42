"""What a run is: all of its settings."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.random as jr
from jaxtyping import PRNGKeyArray

from .._algorithm import AbstractAlgorithm, AbstractAsynchronous, AbstractClusters
from .._check import check_count, check_seed
from .._evaluate import FineTune
from .._roles import Role, Roles
from .._types import Model
from ..nn import lora
from ..privacy import PrivacyPlan
from ..recipes import algorithm, Batching, Compression, Privacy, Task, task
from ..recipes._algorithms import build, needs_root
from ..recipes._arguments import as_json, checked_numbers
from ..recipes._compression import check_compressed
from ..recipes._recipe import check_one_aggregator
from ..recipes._roles import roles_of
from .attacking import Attack
from .clocking import Clock, no_clock


# What has a kind and is not the algorithm's.
NAMED = {
    "attack": Attack,
    "clock": Clock,
    "compress": Compression,
    "compress_down": Compression,
}


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
    - `lora`: the rank of a change that is trained in place of each dense layer; if not
        given, the layers are.
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
    - `ledger`: whether to keep what each client has sent and was sent.
    - `data`: a folder with the data's files, if they are not to be downloaded.
    - `tensorboard`: whether to log for TensorBoard, beside the lines of JSON.
    - `wandb`: the project at Weights & Biases to log to, if any.
    - `attack`: what the attackers do.
    - `clock`: how long rounds take; if not given, they take no time.
    - `compress`: how what clients send is compressed; it is not, if not given.
    - `compress_down`: how what they are sent is compressed, likewise.
    - `privacy`: what is promised to the clients, if anything is; a recipe's.
    """

    task: str
    algorithm: str
    numbers: Mapping[str, Any]
    personal: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    lora: int | None = None
    batching: Batching = Batching()
    clients_per_round: int = 10
    power_of_choice: int | None = None
    rounds: int = 100
    max_examples: int | None = None
    seed: int = 0
    seeds: int = 1
    attack: Attack | None = None
    clock: Clock | None = None
    attackers: int | None = None
    root_examples: int | None = None
    fine_tune: int | None = None
    eval_every: int = 10
    checkpoint_every: int | None = None
    keep_checkpoints: int = 1
    rounds_per_call: int = 1
    ledger: bool = False
    data: str | None = None
    tensorboard: bool = False
    wandb: str | None = None
    recipe: str | None = None
    privacy: Privacy | None = None
    compress: Compression | None = None
    compress_down: Compression | None = None

    def __post_init__(self) -> None:
        task(self.task)
        checked_numbers(algorithm(self.algorithm), self.numbers)
        check_one_aggregator(self.privacy, self.numbers)
        check_compressed(self.privacy, self.compress, self.compress_down)
        counts = ("clients_per_round", "rounds", "seeds", "eval_every")
        for name in (*counts, "keep_checkpoints", "rounds_per_call"):
            check_count(name, getattr(self, name))
        optional = ("max_examples", "fine_tune", "checkpoint_every")
        for name in (*optional, "attackers", "root_examples", "lora"):
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
        if self.ledger and self.privacy is not None:
            raise ValueError(
                "`ledger` tells who took part in which round, and what this recipe "
                "promises holds only if nobody knows. Leave it out, or take a recipe "
                "without privacy."
            )
        if self.clock is not None:
            self.clock.check_fits(self.algorithm, num_chosen=self.power_of_choice)
        elif issubclass(algorithm(self.algorithm), AbstractAsynchronous):
            raise ValueError(no_clock(self.algorithm))
        check_seed(self.seed)
        if self.seed + self.seeds > 2**64:
            raise ValueError(
                f"`seeds={self.seeds}` are from `seed` on, of which {self.seed} leaves "
                f"{2**64 - self.seed}: the last one is 2**64 - 1."
            )
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
        return build(
            *(cls, self.numbers, self.of_task, self.batching),
            up=self.compress,
            down=self.compress_down,
            num_chosen=chosen,
        )

    def model(self, key: PRNGKeyArray) -> Model:
        """The model to start from."""
        model = self.of_task.model(key)
        if self.lora is None:
            return model
        return lora(model, self.lora, key=jr.fold_in(key, self.lora))

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
            "clock": self.clock and self.clock.as_json(),
            "compress": self.compress and self.compress.as_json(),
            "compress_down": self.compress_down and self.compress_down.as_json(),
            "privacy": self.privacy and dataclasses.asdict(self.privacy),
        }
