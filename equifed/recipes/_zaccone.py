"""Mime, and FedAvg beside it, as Zaccone et al. (2311.18578), of whom one is of Mime's
authors, run them on CIFAR-10 where each client has a single label."""

from .._algorithm import FedAvg, Mime
from ._batching import Batching
from ._optimizers import Momentum, SGD
from ._recipe import Recipe
from ._tasks import TASKS


_BASE = "RickZack/GHBM, config/algo/fedbase.yaml (3d01a7ac)"
_MIME = "RickZack/GHBM, config/algo/mimemom.yaml (41da4a90)"
_FEDAVG = "the same repository, config/algo/fedavg.yaml (3d01a7ac)"
_RATE = "config/algo/optim/{} of the same repository"
_NOTES = (
    "The repository's README (3d01a7ac) says that its files hold the paper's "
    "parameters; yet its example gives another algorithm another rate. 100 of the test "
    "images are left out there. Images are flipped and moved each for itself, there "
    "those of a batch alike."
)
_OF_MIME = (
    " The gradient of all of a client's images is there that of whole batches, 448 of "
    "500. The server's momentum has the weights' decay in it, there that of the "
    "clients' steps alone."
)
_COMMON = {
    "task": TASKS["cifar10-resnet20-dir0"],
    "batching": Batching(batch_size=64, epochs=1, last="drop"),
    "clients_per_round": 10,
    "rounds": 10_000,
    "eval_every": 100,
    "source": _BASE,
    "without": "the repository has its figures as images alone, and the paper's tables "
    "were not at hand to be checked",
}
_ROUNDS = {"rounds": "the same repository, config/config.yaml (3d01a7ac)"}

RECIPES = (
    Recipe(
        name="zaccone-cifar10-mime",
        algorithm=Mime,
        numbers={
            "optim": Momentum(learning_rate=0.1, momentum=0.9, weight_decay=1e-4),
            "server_learning_rate": 0.1,
            "aggregator": "uniform-mean",
        },
        sources={
            **_ROUNDS,
            "optim": f"{_MIME}; {_RATE.format('fedsgd.yaml (3d01a7ac)')}",
            "server_learning_rate": _MIME,
            "aggregator": _MIME,
        },
        notes=_NOTES + _OF_MIME,
        **_COMMON,
    ),
    Recipe(
        name="zaccone-cifar10-fedavg",
        algorithm=FedAvg,
        numbers={"client_optim": SGD(learning_rate=0.1, weight_decay=1e-4)},
        sources={
            **_ROUNDS,
            "client_optim": f"{_FEDAVG}; {_RATE.format('sgd.yaml (b57b7c55)')}",
        },
        notes=_NOTES,
        **_COMMON,
    ),
)
