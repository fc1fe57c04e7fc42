"""Adaptive Federated Optimization (Reddi et al., 2021): the tuned learning rates.

The figures of the paper's tables were not at hand to be checked, so that none is given
here.
"""

from collections.abc import Iterator
from typing import Any

from .._algorithm import (
    AbstractAlgorithm,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
)
from ._batching import Batching
from ._optimizers import SGD
from ._recipe import Recipe
from ._tasks import TASKS


_SOURCE = (
    "google-research/federated, optimization/docs/hyperparameters.md (a5af8c4), of "
    "Reddi et al. (2021), arXiv 2003.00295"
)
_BETAS = (
    "Keras's defaults, with which the learning rates were tuned (the same repository)"
)
_CLASSES: tuple[type[AbstractAlgorithm], ...] = (
    *(FedAdagrad, FedAdam, FedYogi, FedAvgM, FedAvg),
)
# Base-10 logarithms, in the order of the classes: the clients' rates, the server's, and
# the three of adaptivity.
_TABLE = {
    "cifar100-resnet18": {
        "client": (-1, -1.5, -1.5, -1.5, -1),
        "server": (-1, 0, 0, 0, 0.5),
        "tau": (-2, -1, -1),
        "numbers": {"clients_per_round": 10, "batch_size": 20, "rounds": 4000},
    },
    "emnist-conv": {
        "client": (-1.5, -1.5, -1.5, -1.5, -1),
        "server": (-1, -2.5, -2.5, -0.5, 0),
        "tau": (-2, -4, -4),
        "numbers": {"clients_per_round": 10, "batch_size": 20, "rounds": 1500},
    },
    "shakespeare-character": {
        "client": (0, 0, 0, 0, 0),
        "server": (-0.5, -2, -2, -0.5, 0),
        "tau": (-1, -3, -3),
        "numbers": {"clients_per_round": 10, "batch_size": 4, "rounds": 1200},
    },
    "stackoverflow-word": {
        "client": (-0.5, -0.5, -0.5, -0.5, -0.5),
        "server": (-1.5, -2, -2, 0, 0),
        "tau": (-4, -5, -5),
        "numbers": {"clients_per_round": 50, "batch_size": 16, "rounds": 1500},
    },
}


def _numbers(row: dict[str, Any], i: int) -> dict[str, Any]:
    cls, rate = _CLASSES[i], 10.0 ** row["server"][i]
    numbers: dict[str, Any] = {
        "client_optim": SGD(learning_rate=10.0 ** row["client"][i])
    }
    if cls is FedAvg:
        return {**numbers, "server_optim": SGD(learning_rate=rate)}
    numbers["server_learning_rate"] = rate
    if cls is FedAvgM:
        return {**numbers, "momentum": 0.9}
    numbers["tau"] = 10.0 ** row["tau"][i]
    return numbers if cls is FedAdagrad else {**numbers, "b1": 0.9, "b2": 0.999}


def _recipes() -> Iterator[Recipe]:
    for task, row in _TABLE.items():
        plan = row["numbers"]
        for i, cls in enumerate(_CLASSES):
            numbers = _numbers(row, i)
            yield Recipe(
                name=f"reddi-{task.partition('-')[0]}-{cls.__name__.lower()}",
                task=TASKS[task],
                algorithm=cls,
                numbers=numbers,
                batching=Batching(batch_size=plan["batch_size"], epochs=1, last="fill"),
                clients_per_round=plan["clients_per_round"],
                rounds=plan["rounds"],
                max_examples=1000 if task == "stackoverflow-word" else None,
                source=_SOURCE,
                sources=dict.fromkeys({"b1", "b2"} & numbers.keys(), _BETAS),
                without="the paper's tables were not at hand to be checked",
                notes="The server is that of the paper's Algorithm 2, without a bias "
                "correction and with v = tau^2 at first; the rates were tuned with "
                "Keras's optimisers.",
            )


RECIPES = tuple(_recipes())
