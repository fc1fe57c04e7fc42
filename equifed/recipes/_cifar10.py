"""CIFAR-10 as three simulators report it: FL-Simulator, Flower and pfl-research."""

from collections.abc import Iterator
from typing import Any

from .._algorithm import FedAvg, FedDyn, FedNova, FedSpeed, Scaffold
from ._batching import Batching
from ._optimizers import Decay, Momentum, SGD
from ._privacy import Privacy
from ._published import Published
from ._recipe import Recipe
from ._tasks import TASKS


_FLSIM = "woodenchild95/FL-Simulator, train.py (1cfae2fa), its defaults"
_FLSIM_TABLE = "woodenchild95/FL-Simulator, README.md (30c056e4), CIFAR-10, 10%-100"
_CLIP = "the same repository, client/client.py (e677e78d)"
_LAM = f"{_FLSIM}: `lamb=0.1` is one over the paper's lambda"
_FLSIM_NOTES = (
    "Of FedDyn and FedSpeed all of the pull to the server's model is clipped with the "
    "gradient; there a part of it is a weight decay, which is not. A shifted image has "
    "black behind it, there the mean colour."
)
_NOT_LOOKED_AT = (
    "Images are scaled by the means and the deviations of their channels; whether the "
    "source does so was not looked at."
)
_PARTS = ("iid", "dir0.6", "dir0.3", "dir0.1")


def _sgd() -> SGD:
    return SGD(
        learning_rate=0.1,
        decay=Decay(factor=0.998),
        weight_decay=1e-3,
        clip_norm=10.0,
    )


_FIGURES: dict[str, tuple[type, dict[str, Any], tuple[float, ...]]] = {
    "fedavg": (FedAvg, {}, (0.8252, 0.8065, 0.7975, 0.7731)),
    "scaffold": (Scaffold, {}, (0.8488, 0.8353, 0.8275, 0.7992)),
    "feddyn": (FedDyn, {"alpha": 0.1}, (0.8546, 0.8422, 0.8322, 0.7896)),
    "fedspeed": (
        FedSpeed,
        {"lam": 10.0, "rho": 0.1, "alpha": 1.0},
        (0.8772, 0.8605, 0.8525, 0.8205),
    ),
}


def _flsim() -> Iterator[Recipe]:
    for name, (cls, numbers, figures) in _FIGURES.items():
        for part, value in zip(_PARTS, figures, strict=True):
            yield Recipe(
                name=f"flsim-{name}-{part}",
                task=TASKS[f"cifar10-resnet18-{part}"],
                algorithm=cls,
                numbers={"client_optim": _sgd(), **numbers},
                batching=Batching(batch_size=50, epochs=5),
                clients_per_round=10,
                rounds=1000,
                source=_FLSIM,
                sources={
                    "client_optim": f"{_FLSIM}; the largest norm: {_CLIP}",
                    "batching": _FLSIM_TABLE,
                    "clients_per_round": _FLSIM_TABLE,
                    "rounds": _FLSIM_TABLE,
                    **({"lam": _LAM} if "lam" in numbers else {}),
                },
                published=Published(value=value, source=_FLSIM_TABLE),
                notes=_FLSIM_NOTES,
            )


_FLOWER = "adap/flower, baselines/niid_bench/niid_bench/conf/{}_base.yaml (09d72eb4)"
_FLOWER_TABLE = (
    "adap/flower, baselines/niid_bench/README.md (73ec95c8), CIFAR10, Dirichlet (0.5)"
)
_NIID = {
    "fedavg": (FedAvg, 0.6247, 0.0043),
    "scaffold": (Scaffold, 0.6808, 0.0096),
    "fednova": (FedNova, 0.6389, 0.0140),
}


def _niid_bench() -> Iterator[Recipe]:
    for name, (cls, value, spread) in _NIID.items():
        yield Recipe(
            name=f"niid-bench-{name}",
            task=TASKS["cifar10-lenet-dir0.5"],
            algorithm=cls,
            numbers={
                "client_optim": Momentum(
                    learning_rate=0.01, momentum=0.9, weight_decay=1e-5
                )
            },
            batching=Batching(batch_size=64, epochs=10),
            clients_per_round=10,
            rounds=50,
            eval_every=1,
            source=_FLOWER.format(name),
            published=Published(
                value=value, spread=spread, over="best", source=_FLOWER_TABLE
            ),
            notes=_NOT_LOOKED_AT,
        )


_PFL = (
    "apple/pfl-research, benchmarks/image_classification/configs/baseline.yaml "
    "(2c77da1b)"
)
_PFL_README = (
    "the same repository, benchmarks/image_classification/README.md (7cb39602)"
)


def _pfl() -> Iterator[Recipe]:
    for part, rounds in (("iid", 1500), ("dir0.1", 3000)):
        yield Recipe(
            name=f"pfl-cifar10-{part}",
            task=TASKS[f"cifar10-cnn-{part}"],
            algorithm=FedAvg,
            numbers={
                "client_optim": SGD(learning_rate=0.1),
                "server_optim": SGD(learning_rate=1.0),
                "aggregator": "uniform-mean",
            },
            batching=Batching(batch_size=10, epochs=1),
            clients_per_round=50,
            rounds=rounds,
            source=_PFL,
            sources={} if part == "iid" else {"rounds": _PFL_README},
            without="the benchmark's table was not at hand to be checked",
        )


_PFL_POPULATION = (
    f"{_PFL}; the population: pytorch/train.py beside it (2c77da1b), `population=1e6`"
)
_PFL_PRIVACY_NOTES = (
    "pfl draws cohorts of a fixed size and accounts for Poisson samples, of 1,000 out "
    "of a million. Here the samples are Poisson samples, so that what is accounted for "
    "is what is drawn: a noise multiplier of 0.633, of a sum over 1,000, as pfl's own "
    "accounting has it. Of cohorts that are drawn without replacement the same epsilon "
    "would ask for 1.487, between neighbours of whom one is replaced. The 1,000 "
    "clients that are really simulated have an epsilon above 100,000, which is told as "
    "`epsilon`, beside that of the million, `deployed_epsilon`."
)


def _private_pfl() -> Iterator[Recipe]:
    promised = Privacy(
        epsilon=2.0,
        delta=1e-6,
        clip_norm=0.4,
        population=1_000_000,
        noise_cohort_size=1000,
    )
    for part in ("iid", "dir0.1"):
        yield Recipe(
            name=f"pfl-cifar10-{part}-private",
            task=TASKS[f"cifar10-cnn-{part}"],
            algorithm=FedAvg,
            numbers={
                "client_optim": SGD(learning_rate=0.1),
                "server_optim": SGD(learning_rate=1.0),
            },
            batching=Batching(batch_size=10, epochs=1),
            clients_per_round=50,
            rounds=3000,
            source=_PFL,
            sources={"rounds": _PFL_README, "privacy": _PFL_POPULATION},
            without="the benchmark's table was not at hand to be checked",
            privacy=promised,
            notes=_PFL_PRIVACY_NOTES,
        )


RECIPES = (*_flsim(), *_niid_bench(), *_pfl(), *_private_pfl())
