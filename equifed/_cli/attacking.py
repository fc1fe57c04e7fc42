"""Clients that attack a run, by the name of their attack, and the server's examples.

Which numbers an attack has, and what they mean, its own class says. Who attacks is
drawn with the seed of the run.
"""

import dataclasses
from dataclasses import MISSING
from types import FunctionType
from typing import Any, get_args

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import Int

from .._algorithm import AbstractAlgorithm
from .._check import check_choice, check_count, check_seed
from .._types import Model
from .._warn import warn
from ..attacks import (
    AbstractAttack,
    Adaptive,
    ALIE,
    Attacked,
    byzantine_clients,
    flip_labels,
    IPM,
    Mimic,
    MinMax,
    MinSum,
    ModelReplacement,
    Noise,
    SignFlip,
)
from ..attacks.attacked import Knows
from ..data import FederatedDataset
from ..data._random import generator, permutation, SPLIT
from ..recipes import Task
from ..recipes._numbers import given, Number, numbers_of_class, numbers_of_fields


ATTACKS: dict[str, type[AbstractAttack] | FunctionType] = {
    "sign-flip": SignFlip,
    "noise": Noise,
    "alie": ALIE,
    "ipm": IPM,
    "min-max": MinMax,
    "min-sum": MinSum,
    "mimic": Mimic,
    "adaptive": Adaptive,
    "model-replacement": ModelReplacement,
    "label-flip": flip_labels,  # in the data, not in what is sent
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack:
    """What attackers do, by name.

    **Arguments:**

    - `kind`: a class of [`equifed.attacks`](robustness.md#attacks), or `"label-flip"`.
    - `scale`, `std`, `epsilon`, `perturbation`, `radius`, `num_steps`: the numbers of
        the kind, as its class has them; its defaults if not given.
    - `knows`: the messages that the attackers know: those of `"all"` honest clients, or
        what they would have sent themselves, their `"own"`.
    """

    kind: str
    scale: float | None = None
    std: float | None = None
    epsilon: float | None = None
    perturbation: str | None = None
    radius: float | None = None
    num_steps: int | None = None
    knows: Knows = "all"

    def __post_init__(self) -> None:
        check_choice("attack", self.kind, tuple(ATTACKS))
        check_choice("knows", self.knows, get_args(Knows))
        known = numbers_of(self.kind)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "kind" or value is None:
                continue
            if field.name not in known and value != field.default:
                has = ", ".join(f"`{x}`" for x in known) or "no number"
                raise ValueError(
                    f"`{field.name}` is no number of the attack {self.kind!r}, which "
                    f"has {has}, got {value}."
                )
        for name, number in known.items():
            if number.default is MISSING and getattr(self, name) is None:
                words = f"`{name}` must be given for {self.kind!r}: {number.help}"
                raise ValueError(words)
        self.build()  # which looks at all numbers

    def build(self) -> AbstractAttack | None:
        """What is sent; `None` if the attack is in the data."""
        cls = ATTACKS[self.kind]
        names = [name for name in numbers_of(self.kind) if name != "knows"]
        return cls(**given(self, names)) if isinstance(cls, type) else None

    def as_json(self) -> dict[str, Any]:
        """What is given, as JSON has it."""
        values = dataclasses.asdict(self)
        return {name: x for name, x in values.items() if x is not None}


def numbers_of(kind: str) -> dict[str, Number]:
    """The numbers of an attack, and what its attackers know."""
    cls = ATTACKS[kind]
    if not isinstance(cls, type):
        return {}
    return numbers_of_class(cls) | numbers_of_fields(Attack, ("knows",))


def with_root(
    data: FederatedDataset, num_examples: int, *, seed: int
) -> FederatedDataset:
    """The data with one client more, the first: the server, which holds examples that
    were drawn from all of the clients' and taken away from them.

    Warns where they are more than half of them, or all that some client has.
    """
    total, had = data.num_examples, data.client_sizes > 0
    count = check_count("root_examples", num_examples)
    if count > total - had.sum():
        raise ValueError(
            f"`root_examples` are taken away from the clients', which are {total} in "
            f"all, of {had.sum()} clients: give {total - had.sum()} or fewer, so that "
            f"as many are left as there are clients, got {count}."
        )
    rng = generator(check_seed(seed), SPLIT)
    taken = np.zeros(total, bool)
    taken[permutation(rng, total)[:count]] = True
    rest = data._keep(~taken)
    none = int((had & (rest.client_sizes == 0)).sum())
    if none > 0 or 2 * count > total:
        warn(
            f"The {count} root examples of the server are taken away from the clients: "
            f"{total - count} of {total} are left to them, and {none} of {had.sum()} "
            "clients have none now. Give fewer by `--root-examples`."
        )
    root = data._keep(taken).pooled("the server")
    return FederatedDataset.concatenate([root, rest])


def with_attackers(
    attack: Attack,
    algorithm: AbstractAlgorithm,
    data: FederatedDataset,
    clients: Int[np.ndarray, " byzantine"],
    *,
    task: Task,
    model: Model,
) -> tuple[AbstractAlgorithm, FederatedDataset]:
    """The algorithm and the data with attackers among the clients, these."""
    sent = attack.build()
    if sent is not None:
        return Attacked(algorithm, sent, clients, knows=attack.knows), data
    classes = _num_classes(task, model, data)
    return algorithm, flip_labels(data, clients, classes, label=task.label)


def drawn_attackers(
    data: FederatedDataset, count: int, *, seed: int, first: int
) -> Int[np.ndarray, " byzantine"]:
    """Who of the clients attack, not all, unless the server has a client of its own:
    those before the number `first`."""
    others = data.num_clients - first
    check_count("attackers", count, most=others if first else others - 1)
    return first + byzantine_clients(others, count, seed=seed)


def _num_classes(task: Task, model: Model, data: FederatedDataset) -> int:
    """Of how many classes labels are, which are to be flipped."""
    shape = ()
    if task.logits is not None:
        found = eqx.filter_eval_shape(task.logits, model, data.example, jr.key(0))
        shape = found.shape
    label = data.columns.get(task.label)
    if len(shape) != 1 or label is None or label.shape[1:] != ():
        raise ValueError(
            f"`label-flip` turns the one label of an example into another class's, and "
            f"an example of {task.name!r} has none. Choose another attack."
        )
    return shape[0]
