"""Stack Overflow's next word, as pfl-research's benchmark has it."""

from typing import Any

from .._algorithm import FedAvg
from ._batching import Batching
from ._optimizers import Adam, Decay, SGD
from ._privacy import Privacy
from ._recipe import Recipe
from ._tasks import TASKS


_CONFIG = "apple/pfl-research, benchmarks/lm/configs/baseline.yaml (22e88081)"
_TRAIN = "the same repository, benchmarks/lm/pytorch/train.py (06651ed8)"
_SERVER = f"{_CONFIG}; its betas: {_TRAIN}"
_NOTES = (
    "The server's rate rises from 0 by a fiftieth of it each round, as there, where "
    "one round of the whole rate comes before. A batch's loss is a mean over its words "
    "there, and over the places of its sequences here. "
    "Of a client with more than 64 sentences the same 64 are used in every round, "
    "there others each time. The test set is TensorFlow Federated's test split, there "
    "a hundredth of the users of its validation split."
)
_PRIVACY_NOTES = (
    " pfl draws cohorts of a fixed size and accounts for Poisson samples, of 5,000 out "
    "of a million; here the samples are Poisson samples. What the clients that are "
    "really simulated are promised is told as `epsilon`, beside that of the million, "
    "`deployed_epsilon`."
)
_PARTS: dict[str, Any] = {
    "task": TASKS["stackoverflow-transformer"],
    "algorithm": FedAvg,
    "batching": Batching(batch_size=16, epochs=1),
    "clients_per_round": 400,
    "rounds": 2000,
    "eval_every": 20,
    "max_examples": 64,
    "source": _CONFIG,
    "without": "the benchmark's table was not at hand to be checked",
}
_OPTIMIZERS = {
    "client_optim": SGD(learning_rate=0.3),
    "server_optim": Adam(
        learning_rate=0.1, decay=Decay(warmup=50), b1=0.9, b2=0.99, eps=0.01
    ),
}

RECIPES = (
    Recipe(
        name="pfl-stackoverflow",
        numbers={**_OPTIMIZERS, "aggregator": "uniform-mean"},
        sources={"server_optim": _SERVER},
        notes=_NOTES,
        **_PARTS,
    ),
    Recipe(
        name="pfl-stackoverflow-private",
        numbers=_OPTIMIZERS,
        sources={"server_optim": _SERVER},
        privacy=Privacy(
            epsilon=2.0,
            delta=1e-6,
            clip_norm=1.0,
            population=1_000_000,
            noise_cohort_size=5000,
        ),
        notes=_NOTES + _PRIVACY_NOTES,
        **_PARTS,
    ),
)
