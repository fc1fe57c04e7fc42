"""A small CNN on MNIST split by the people who wrote it.

539 writers train, 20 in a round; the model is evaluated on 297 writers that it never
sees. One argument chooses the algorithms; several are drawn into one figure.

The data are two parquet files, `train.parquet` and `test.parquet`, with the columns
`client_id`, `image` (784 bytes) and `label`: MNIST joined with the writers' numbers of
QMNIST.

    python examples/mnist_by_writer.py --data mnist_by_writer
    python examples/mnist_by_writer.py --data mnist_by_writer --algorithms all
"""

import argparse
import json
import pathlib
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import equifed as eqf


class CNN(eqx.Module):
    """Two convolutions and two dense layers, for one image of 784 bytes."""

    conv1: eqf.nn.Conv2d
    conv2: eqf.nn.Conv2d
    pool: eqf.nn.MaxPool2d
    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear

    def __init__(self, key):
        keys = jr.split(key, 4)
        self.conv1 = eqf.nn.Conv2d(1, 16, 5, key=keys[0])
        self.conv2 = eqf.nn.Conv2d(16, 32, 5, key=keys[1])
        self.pool = eqf.nn.MaxPool2d(2)
        self.dense1 = eqx.nn.Linear(512, 128, key=keys[2])
        self.dense2 = eqx.nn.Linear(128, 10, key=keys[3])

    def __call__(self, image):
        x = image.reshape(28, 28, 1).astype(jnp.float32) / 255
        x = jax.nn.relu(self.pool(self.conv1(x)))
        x = jax.nn.relu(self.pool(self.conv2(x)))
        return self.dense2(jax.nn.relu(self.dense1(x.reshape(-1))))


def loss(model, example, key):
    logits = model(example["image"])
    right = eqf.accuracy(logits, example["label"])
    return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}


BATCHING = eqf.data.Epochs(1, batch_size=20)
MOMENTUM = optax.sgd(0.03, momentum=0.9)

ALGORITHMS = {
    "FedAvg": lambda: eqf.FedAvg(loss, MOMENTUM, BATCHING),
    "FedAdam": lambda: eqf.FedAdam(
        loss, optax.sgd(0.05), BATCHING, server_learning_rate=10**-2.5, tau=1e-3
    ),
    "FedProx": lambda: eqf.FedProx(loss, MOMENTUM, BATCHING, mu=0.01),
    "Scaffold": lambda: eqf.Scaffold(loss, optax.sgd(0.1), BATCHING, option=1),
    "FedDyn": lambda: eqf.FedDyn(loss, optax.sgd(0.1), BATCHING, alpha=0.1),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--algorithms", nargs="+", default=["FedAvg"])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    names = list(ALGORITHMS) if args.algorithms == ["all"] else args.algorithms
    for name in names:
        if name not in ALGORITHMS:
            parser.error(f"unknown algorithm {name!r}; choose from {[*ALGORITHMS]}")

    train, test = (
        eqf.data.FederatedDataset.from_parquet(
            args.data / f"{split}.parquet", by="client_id", columns=["image", "label"]
        )
        for split in ("train", "test")
    )
    print(train)
    loader = eqf.data.Loader(train, eqf.data.UniformSampler(20, seed=0), BATCHING)

    solutions = {}
    for name in names:
        begin = time.perf_counter()
        solutions[name] = eqf.train(
            ALGORITHMS[name](),
            CNN(jr.key(0)),
            loader,
            num_rounds=args.rounds,
            key=jr.key(0),
            evaluation={"unseen writers": test},
            eval_every=10,
            logger=eqf.Loggers(
                eqf.ProgressBar("loss"),
                eqf.Table("loss", "unseen writers/accuracy", every=50),
            ),
        )
        seconds = time.perf_counter() - begin
        report(name, solutions[name], test, seconds)

    with open(args.output / "mnist_by_writer.json", "w") as file:
        histories = {name: s.history for name, s in solutions.items()}
        json.dump(histories, file)
    plot(solutions, args.output / "mnist_by_writer.png")


def report(name, solution, test, seconds):
    rounds, accuracy = solution.values("unseen writers/accuracy")
    first = next((r for r, a in zip(rounds, accuracy, strict=True) if a >= 0.98), None)
    per_client = eqf.evaluate(solution.model, test, loss, per_client=True)
    low, middle = per_client.quantiles("accuracy", (0.1, 0.5)).values()
    reached = "never" if first is None else f"by round {first}"
    print(
        f"{name}: {accuracy[-1]:.2%} on unseen writers (98% {reached}); over writers: "
        f"median {middle:.1%}, worst tenth below {low:.1%}; {seconds:.0f} s"
    )


def plot(solutions, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    eqf.plot.learning_curves(solutions, "unseen writers/accuracy", ax=ax)
    ax.set(ylabel="accuracy on unseen writers", ylim=(0.85, 1.0))
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
