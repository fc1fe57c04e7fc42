"""Adaptive Federated Optimization (Reddi et al., 2021): the tuned learning rates.

The paper's tables were not at hand to be checked. What others cite of them, the figures
of FedAvg, is given with who does.
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
from ._published import Published
from ._recipe import Recipe
from ._tasks import TASKS


_SOURCE = (
    "google-research/federated, optimization/docs/hyperparameters.md (a5af8c4), of "
    "Reddi et al. (2021), arXiv 2003.00295"
)
_BETAS = (
    "Keras's defaults, with which the learning rates were tuned (the same repository)"
)
_NOTES = (
    "The server is that of the paper's Algorithm 2, without a bias correction and with "
    "v = tau^2 at first; the rates were tuned with Keras's optimisers."
)
_OF_SUMS = (
    " An epoch's last batch, where it is short, makes a longer step than there, as its "
    "mean is taken times the size of a full one."
)
_OF_LEAF = (
    " LEAF's writers, with a tenth of each one's examples for the test, where the "
    "source has the 3,400 of TensorFlow Federated and a test set of theirs."
)
_OF_RESNET = (
    " Clients are Pachinko's of this library, not TensorFlow Federated's. The ResNet "
    "is another one. In the source's (utils/models/resnet_models.py, 373672bb) a "
    "convolution of 7 x 7 and a max pooling of 3 x 3, both of stride 2, come first, "
    "where here a convolution of 3 x 3 leaves all pixels; blocks normalise in front of "
    "their convolutions, here behind them; no stage halves the image, where here three "
    "do; and the loss has 1e-4 times the squares of the weights of convolutions and "
    "the dense layer, here none. Weights begin in another way."
)
_OF_TEXTS = (
    " Clients count by their sequences, in the source by their tokens but padding "
    "(optimization/trainer.py, 4e068112). The loss leaves padding out; there Keras's "
    "loss is given no mask, so that padding may count in it. Weights begin as haiku's "
    "do, there as Keras's."
)
_OWN_NOTES = {
    "cifar100-resnet18": _OF_RESNET,
    "emnist-conv": _OF_LEAF,
    "emnist-autoencoder": _OF_LEAF + _OF_SUMS,
    "shakespeare-lstm": _OF_TEXTS + " A role's texts are put end to end and cut into "
    "80 characters and those that follow; there each text is cut by itself, into 81, "
    "of which the first is not foretold.",
    "stackoverflow-lstm": _OF_TEXTS + " Of a user's sentences 1,000 at random are used "
    "in every round, there the first 1,000. All of the test split is evaluated on, "
    "there 10,000 sentences of it while training, and the others at the end. Of the "
    "three accuracies `accuracy` is `accuracy_no_oov_or_eos` there.",
    "stackoverflow-tag": _OF_SUMS + " Of a text the first 200 known words are used, "
    "there all of them; words and tags are the most frequent of the training split.",
}
# What FedAvg reaches, in percent.
_CITED = {
    "emnist-conv": 84.9,
    "cifar100-resnet18": 44.7,
    "shakespeare-lstm": 56.9,
    "stackoverflow-lstm": 19.5,
}
_CITING = (
    "FedML-AI/FedML, benchmark/README.md (46e34dcc), which cites Table 1 of Reddi et "
    "al. (2021) for it"
)
_OF_CITED = (
    " Who cites the figure does not say of which rounds it is, nor which tokens of a "
    "text count."
)
_CLASSES: tuple[type[AbstractAlgorithm], ...] = (
    *(FedAdagrad, FedAdam, FedYogi, FedAvgM, FedAvg),
)
# Base-10 logarithms, in the order of the classes: the clients' rates, the server's, and
# the three of adaptivity.
_TABLE = {
    "cifar100-resnet18": {
        "name": "cifar100",
        "client": (-1, -1.5, -1.5, -1.5, -1),
        "server": (-1, 0, 0, 0, 0.5),
        "tau": (-2, -1, -1),
        "numbers": {"clients_per_round": 10, "batch_size": 20, "rounds": 4000},
    },
    "emnist-conv": {
        "name": "emnist",
        "client": (-1.5, -1.5, -1.5, -1.5, -1),
        "server": (-1, -2.5, -2.5, -0.5, 0),
        "tau": (-2, -4, -4),
        "numbers": {"clients_per_round": 10, "batch_size": 20, "rounds": 1500},
    },
    "shakespeare-lstm": {
        "name": "shakespeare",
        "client": (0, 0, 0, 0, 0),
        "server": (-0.5, -2, -2, -0.5, 0),
        "tau": (-1, -3, -3),
        "numbers": {"clients_per_round": 10, "batch_size": 4, "rounds": 1200},
    },
    "stackoverflow-lstm": {
        "name": "stackoverflow",
        "client": (-0.5, -0.5, -0.5, -0.5, -0.5),
        "server": (-1.5, -2, -2, 0, 0),
        "tau": (-4, -5, -5),
        "numbers": {"clients_per_round": 50, "batch_size": 16, "rounds": 1500},
    },
    "emnist-autoencoder": {
        "name": "autoencoder",
        "client": (1.5, 1, 1, 0.5, 1),
        "server": (-1.5, -1.5, -1.5, 0, 0),
        "tau": (-3, -3, -3),
        "numbers": {"clients_per_round": 10, "batch_size": 20, "rounds": 3000},
    },
    "stackoverflow-tag": {
        "name": "tags",
        "client": (2, 2, 2, 2, 2),
        "server": (1, -0.5, -0.5, 0, 0),
        "tau": (-2, -5, -5),
        "numbers": {"clients_per_round": 10, "batch_size": 100, "rounds": 1500},
    },
}
# Two of its losses are sums over a batch; here a batch has the mean of its examples.
_SUMS = {
    "emnist-autoencoder": "optimization/tasks/emnist_ae.py",
    "stackoverflow-tag": "optimization/tasks/stackoverflow_tp.py",
}
_SUM = (
    "{}; times the size of a batch, as the loss is a sum over a batch in {} (4e068112) "
    "of the same repository"
)


def _numbers(task: str, row: dict[str, Any], i: int) -> dict[str, Any]:
    cls, rate = _CLASSES[i], 10.0 ** row["server"][i]
    times = row["numbers"]["batch_size"] if task in _SUMS else 1
    numbers: dict[str, Any] = {
        "client_optim": SGD(learning_rate=times * 10.0 ** row["client"][i])
    }
    if cls is FedAvg:
        return {**numbers, "server_optim": SGD(learning_rate=rate)}
    numbers["server_learning_rate"] = rate
    if cls is FedAvgM:
        return {**numbers, "momentum": 0.9}
    numbers["tau"] = 10.0 ** row["tau"][i]
    return numbers if cls is FedAdagrad else {**numbers, "b1": 0.9, "b2": 0.999}


def _published(task: str, cls: type[AbstractAlgorithm]) -> dict[str, Any]:
    notes = _NOTES + _OWN_NOTES.get(task, "")
    if cls is not FedAvg or task not in _CITED:
        why = "the paper's tables were not at hand to be checked"
        return {"without": why, "notes": notes}
    value = round(_CITED[task] / 100, 3)
    published = Published(value=value, source=_CITING)
    return {"published": published, "notes": notes + _OF_CITED}


def _recipes() -> Iterator[Recipe]:
    for task, row in _TABLE.items():
        plan = row["numbers"]
        for i, cls in enumerate(_CLASSES):
            numbers = _numbers(task, row, i)
            sources = dict.fromkeys({"b1", "b2"} & numbers.keys(), _BETAS)
            if task in _SUMS:
                sources["client_optim"] = _SUM.format(_SOURCE, _SUMS[task])
            yield Recipe(
                name=f"reddi-{row['name']}-{cls.__name__.lower()}",
                task=TASKS[task],
                algorithm=cls,
                numbers=numbers,
                batching=Batching(batch_size=plan["batch_size"], epochs=1),
                clients_per_round=plan["clients_per_round"],
                rounds=plan["rounds"],
                max_examples=1000 if task.startswith("stackoverflow") else None,
                source=_SOURCE,
                sources=sources,
                **_published(task, cls),
            )


RECIPES = tuple(_recipes())
