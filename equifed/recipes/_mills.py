"""MimeLite, and FedAvg beside it, as Mills et al. (2108.09134) have tuned them."""

from collections.abc import Iterator

from .._algorithm import FedAvg, MimeLite
from ._batching import Batching
from ._optimizers import Momentum, SGD
from ._recipe import Recipe
from ._tasks import TASKS


_SETTINGS = "JedMills/FedGBO, experiment-settings.csv (0a96db08), K=10"
_MAIN = "the same repository, main.py (0a96db08)"
_BETA = (
    f"{_SETTINGS}: `lr={{}}, beta=0.9`. The gradient is weighed by 1 - beta there "
    "(optimizers.py, 0a96db08) and not here, so that the rate is times 1 - beta"
)
_NOTES = {
    "emnist": "LEAF's script chooses the writers, and the examples of the test; here "
    "the first 3,000 writers are taken, and a fifth of each one's examples at random.",
    "cifar100": "Clients are Pachinko's of this library, not TensorFlow Federated's. "
    "Images are flipped and moved each for itself, there those of a batch alike, and "
    "one that is moved has black behind it, there the mean colour.",
}
# The clients of a round, and the rates of MimeLite and of FedAvg, as the file has them.
_TASKS = {"emnist": (30, 0.1, 0.1), "cifar100": (5, 0.01, 0.01)}
_WITHOUT = (
    "the repository gives no figure, and the paper's tables were not at hand to be "
    "checked"
)


def _recipes() -> Iterator[Recipe]:
    for name, (clients, of_mime, of_fedavg) in _TASKS.items():
        common = {
            "task": TASKS[f"{name}-pooled"],
            "batching": Batching(batch_size=32, steps=10),
            "clients_per_round": clients,
            "rounds": 5000,
            "eval_every": 50,
            "source": _SETTINGS,
            "without": _WITHOUT,
            "notes": _NOTES[name],
        }
        of_main = dict.fromkeys(("batching", "clients_per_round", "rounds"), _MAIN)
        yield Recipe(
            name=f"mills-{name}-mimelite",
            algorithm=MimeLite,
            # The rate is times 1 - beta, a tenth.
            numbers={"optim": Momentum(learning_rate=of_mime / 10, momentum=0.9)},
            sources={**of_main, "optim": _BETA.format(of_mime)},
            **common,
        )
        yield Recipe(
            name=f"mills-{name}-fedavg",
            algorithm=FedAvg,
            numbers={
                "client_optim": SGD(learning_rate=of_fedavg),
                "aggregator": "uniform-mean",
            },
            sources={
                **of_main,
                "aggregator": "the same repository, fl_algs.py (0a96db08)",
            },
            **common,
        )


RECIPES = tuple(_recipes())
