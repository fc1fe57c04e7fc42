"""FedDyn's own experiment on CIFAR-10: what its authors' repository runs."""

from collections.abc import Iterator
from typing import Any

from .._algorithm import FedAvg, FedDyn, FedProx, Scaffold
from ._batching import Batching
from ._optimizers import SGD
from ._recipe import Recipe
from ._tasks import TASKS


_EXAMPLE = "alpemreacar/FedDyn, example_cifar_10.py (be0348ba)"
_CLIP = "the same repository, utils_general.py (48a19fac)"
_PARTITION = "README.md (98c519e4)"
_MODEL = "utils_models.py (be0348ba)"
_ALGORITHMS: dict[str, tuple[type, dict[str, Any]]] = {
    "feddyn": (FedDyn, {"alpha": 0.01}),
    "scaffold": (Scaffold, {}),
    "fedavg": (FedAvg, {}),
    "fedprox": (FedProx, {"mu": 1e-4}),
}
_NOTES = (
    f"The example deals the images at random; Dirichlet (0.6) is of {_PARTITION}. The "
    f"model is that of {_MODEL}. A shifted image has black behind it, there the mean "
    "colour. Gradients are clipped before the weights' decay, as there; of FedDyn a "
    "part of the pull to the server's model is a decay there, which is not clipped."
)


def _recipes() -> Iterator[Recipe]:
    for name, (cls, numbers) in _ALGORITHMS.items():
        for part in ("iid", "dir0.6"):
            optim = SGD(learning_rate=0.1, weight_decay=1e-3, clip_norm=10.0)
            yield Recipe(
                name=f"acar-{name}-{part}",
                task=TASKS[f"cifar10-widelenet-{part}"],
                algorithm=cls,
                numbers={"client_optim": optim, **numbers},
                batching=Batching(batch_size=50, epochs=5),
                clients_per_round=100,
                rounds=1000,
                source=_EXAMPLE,
                sources={"client_optim": f"{_EXAMPLE}; the largest norm: {_CLIP}"},
                without="the repository gives no figure, and the paper's tables were "
                "not at hand to be checked",
                notes=_NOTES,
            )


RECIPES = tuple(_recipes())
