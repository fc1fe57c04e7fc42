"""FedJAX's experiments: its flag files, its example and its notebook; and ours on
digits."""

from .._algorithm import APFL, FedAvg, FedPA
from ._batching import Batching
from ._compression import Compression
from ._optimizers import Adagrad, Adam, Decay, Momentum, SGD, Yogi
from ._published import Published
from ._recipe import Recipe
from ._tasks import TASKS


_FLAGS = "google/fedjax, experiments/fed_avg/fed_avg.{}.flags ({})"
_OLD_FLAGS = "google/fedjax, fedjax/experiments/fed_avg/fed_avg.{}.flags (97b759d7)"
_EPOCH = "that file; one epoch is the default of its flags"
_APFL = "google/fedjax, experiments/apfl/{} (becd9c9d)"
_NOTEBOOK = (
    "google/fedjax, fedjax/experimental/notebooks/emnist_compression.ipynb (c57ee19), "
    "and its output"
)
_LEAF = (
    "LEAF's writers, with a tenth of each one's examples for the test, where FedJAX "
    "has 3,400 of them and a test set of TensorFlow Federated."
)
_NONE = "the source gives no figure"


def _fill(batch_size: int) -> Batching:
    return Batching(batch_size=batch_size, epochs=1, last="fill")


RECIPES = (
    Recipe(
        name="digits-fedavg",
        task=TASKS["digits-dense"],
        algorithm=FedAvg,
        numbers={"client_optim": Momentum(learning_rate=0.05, momentum=0.9)},
        batching=Batching(batch_size=8, epochs=2),
        clients_per_round=6,
        rounds=100,
        eval_every=5,
        source="examples/quickstart.py of this library, with a dense model",
        without="it is an example of this library's own",
    ),
    Recipe(
        name="fedjax-emnist-conv",
        task=TASKS["emnist-conv"],
        algorithm=FedAvg,
        numbers={
            "client_optim": SGD(learning_rate=0.001),
            "server_optim": Adam(learning_rate=1.0, b1=0.9, b2=0.99, eps=0.01),
        },
        batching=_fill(10),
        clients_per_round=10,
        rounds=1500,
        eval_every=5,
        source=_FLAGS.format("EMNIST_CONV", "a94a5761"),
        sources={"batching": _EPOCH},
        without=_NONE,
        notes=_LEAF,
    ),
    Recipe(
        name="fedjax-emnist-example",
        task=TASKS["emnist-conv"],
        algorithm=FedAvg,
        numbers={
            "client_optim": SGD(learning_rate=10**-1.5),
            "server_optim": Adam(learning_rate=10**-2.5, b1=0.9, b2=0.999, eps=10**-4),
        },
        batching=_fill(20),
        clients_per_round=10,
        rounds=1500,
        source="google/fedjax, examples/emnist_fed_avg.py (2598aedd)",
        without=_NONE,
        notes=_LEAF,
    ),
    Recipe(
        name="fedjax-emnist-logistic",
        task=TASKS["emnist-logistic"],
        algorithm=FedAvg,
        numbers={
            "client_optim": SGD(learning_rate=0.31622777),
            "server_optim": Adagrad(
                learning_rate=1.0, initial_accumulator=0.1, eps=1e-7
            ),
        },
        batching=_fill(10),
        clients_per_round=10,
        rounds=1500,
        eval_every=5,
        source=_OLD_FLAGS.format("EMNIST_LOGISTIC"),
        sources={
            "batching": _EPOCH,
            "server_optim": "that file; the accumulator is Optax's default, which "
            "google/fedjax, fedjax/training/structured_flags.py (38324655) leaves",
        },
        without=_NONE,
        notes=_LEAF,
    ),
    Recipe(
        name="fedjax-emnist-dense-apfl",
        task=TASKS["emnist-dense"],
        algorithm=APFL,
        numbers={
            "client_optim": SGD(learning_rate=0.001),
            "server_optim": Adam(learning_rate=1.0, b1=0.9, b2=0.99, eps=0.01),
            "alpha": 0.5,
            "alpha_learning_rate": 0.001,
            "aggregator": "weighted-mean",
        },
        batching=_fill(20),
        clients_per_round=340,
        rounds=500,
        source=_APFL.format("apfl.EMNIST_DENSE.flags"),
        sources={
            "batching": _EPOCH,
            "alpha_learning_rate": "that file; alpha has the clients' optimiser there",
            "aggregator": "google/fedjax, fedjax/algorithms/apfl.py (becd9c9d)",
        },
        published=Published(value=0.9585129, source=_APFL.format("README.md")),
        notes=f"{_LEAF} Here a client's own model steps along alpha times its "
        "gradient, as the chain rule has it, and one alpha for all arrays moves in the "
        "first step of a round; there it is without alpha, and each array has one, "
        "which moves in every step.",
    ),
    Recipe(
        name="fedjax-emnist-compressed",
        task=TASKS["emnist-conv"],
        algorithm=FedAvg,
        numbers={
            "client_optim": SGD(learning_rate=0.16),
            "server_optim": SGD(learning_rate=1.0, decay=Decay(factor=0.5, every=500)),
        },
        batching=_fill(10),
        clients_per_round=10,
        rounds=1500,
        compress=Compression(kind="uniform-quantizer", num_levels=256),
        source=_NOTEBOOK,
        published=Published(value=0.8554, source=_NOTEBOOK),
        notes=_LEAF,
    ),
    Recipe(
        name="fedjax-shakespeare",
        task=TASKS["shakespeare-character"],
        algorithm=FedAvg,
        numbers={
            "client_optim": SGD(learning_rate=0.03162278),
            "server_optim": SGD(learning_rate=1.0),
        },
        batching=_fill(10),
        clients_per_round=10,
        rounds=1500,
        eval_every=5,
        source=_OLD_FLAGS.format("SHAKESPEARE_CHARACTER"),
        sources={"batching": _EPOCH},
        without=_NONE,
        notes="The ends of texts are not counted in `accuracy`, nor are unknown "
        "characters, which are mistakes in FedJAX's `accuracy_in_vocab`; no character "
        "is left out of them. FedJAX's model and its data have other numbers for them.",
    ),
    Recipe(
        name="fedjax-stackoverflow-word",
        task=TASKS["stackoverflow-word"],
        algorithm=FedAvg,
        numbers={
            "client_optim": SGD(learning_rate=0.5),
            "server_optim": Adam(learning_rate=0.02, b1=0.9, b2=0.999, eps=1e-8),
        },
        batching=_fill(16),
        clients_per_round=50,
        rounds=1500,
        max_examples=8000,
        eval_every=50,
        source=_FLAGS.format("STACKOVERFLOW_WORD", "a94a5761"),
        without=_NONE,
        notes="At most 500 steps of 16 examples are at most 8,000 examples, which are "
        "here the same ones in every round. The loss of a sentence is divided by 13.3, "
        "as fedjax/training/tasks.py (62acaf52) has it. Unknown words do not count in "
        "`accuracy`; in `accuracy_in_vocab` they are mistakes, as in FedJAX's.",
    ),
    Recipe(
        name="fedjax-cifar100-logistic",
        task=TASKS["cifar100-logistic"],
        algorithm=FedAvg,
        numbers={
            "client_optim": SGD(learning_rate=0.01),
            "server_optim": Yogi(learning_rate=0.1, b1=0.9, b2=0.999, eps=0.01),
        },
        batching=_fill(20),
        clients_per_round=10,
        rounds=4000,
        source=_FLAGS.format("CIFAR100_LOGISTIC", "e3fbac56"),
        sources={"batching": _EPOCH},
        published=Published(
            value=0.1149, source=_FLAGS.format("CIFAR100_LOGISTIC", "e3fbac56")
        ),
        notes="Images are standardised as TensorFlow does it; FedJAX's have another "
        "constant. Clients are Pachinko's of this library, not TensorFlow Federated's.",
    ),
    Recipe(
        name="fedpa-emnist",
        task=TASKS["emnist-conv"],
        algorithm=FedPA,
        numbers={
            "client_optim": Momentum(learning_rate=0.02, momentum=0.9),
            "burnin": 1,
            "rho": 0.01,
            "start_round": 400,
            "server_optim": Momentum(learning_rate=0.5, momentum=0.9),
        },
        batching=Batching(batch_size=20, epochs=5),
        clients_per_round=100,
        rounds=1500,
        source="google-research/federated, posterior_averaging/README.md (a5af8c4), "
        "the command for EMNIST",
        without="the paper's table was not at hand to be checked",
        notes=_LEAF,
    ),
)
