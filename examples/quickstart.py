"""FedAvg on handwritten digits by their writers: a first federated training.

The 1,797 digits that come with the library were written by 14 people. Two of them are
held out; a fifth of the digits of each of the others is kept for testing. Ten minutes
of reading, five seconds of training.

    python examples/quickstart.py [--rounds 100] [--output .]
"""

import argparse
import pathlib
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import equifed as eqf


class CNN(eqx.Module):
    """A small convolutional network. Like all Equinox models it takes ONE image."""

    conv1: eqf.nn.Conv2d
    conv2: eqf.nn.Conv2d
    pool: eqf.nn.MaxPool2d
    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear

    def __init__(self, key):
        keys = jr.split(key, 4)
        self.conv1 = eqf.nn.Conv2d(1, 16, 3, padding=1, key=keys[0])
        self.conv2 = eqf.nn.Conv2d(16, 32, 3, padding=1, key=keys[1])
        self.pool = eqf.nn.MaxPool2d(2)
        self.dense1 = eqx.nn.Linear(512, 64, key=keys[2])
        self.dense2 = eqx.nn.Linear(64, 10, key=keys[3])

    def __call__(self, image):
        x = image[:, :, None].astype(jnp.float32) / 16
        x = jax.nn.relu(self.conv1(x))
        x = self.pool(jax.nn.relu(self.conv2(x)))
        return self.dense2(jax.nn.relu(self.dense1(x.reshape(-1))))


def measure(model, example, key):
    """The loss of ONE example, and its accuracy beside it."""
    logits = model(example["image"])
    right = eqf.accuracy(logits, example["label"])
    return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}


def loss(model, example, key):
    """The same on an image moved by up to one pixel: people write off-centre."""
    corner = jr.randint(key, (2,), 0, 3)
    moved = jax.lax.dynamic_slice(jnp.pad(example["image"], 1), corner, (8, 8))
    return measure(model, {**example, "image": moved}, key)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    # Data: who has which examples.
    seen, unseen = eqf.data.digits().split_clients(2, seed=0)
    train, test = seen.split_examples(0.2, seed=0)
    print(f"{train.num_clients} writers train; held out: {', '.join(unseen)}")

    # The algorithm: local SGD at the clients, a weighted mean at the server.
    batching = eqf.data.Epochs(2, batch_size=8)
    algorithm = eqf.FedAvg(loss, optax.sgd(0.05, momentum=0.9), batching)
    loader = eqf.data.Loader(train, eqf.data.UniformSampler(6, seed=0), batching)

    begin = time.perf_counter()
    solution = eqf.train(
        algorithm,
        CNN(jr.key(0)),
        loader,
        num_rounds=args.rounds,
        key=jr.key(0),
        evaluation={"unseen writers": unseen, "held-out digits": test},
        metrics=measure,
        eval_every=5,
        logger=eqf.Loggers(
            eqf.ProgressBar("loss"),
            eqf.Table(
                "loss",
                "unseen writers/accuracy",
                "held-out digits/accuracy",
                every=20,
            ),
        ),
    )
    seconds = time.perf_counter() - begin
    print(f"{args.rounds} rounds in {seconds:.1f} s, compilation included")

    last = solution.history[-1]
    print(f"accuracy on unseen writers   {last['unseen writers/accuracy']:.1%}")
    print(f"accuracy on held-out digits  {last['held-out digits/accuracy']:.1%}")
    per_client = eqf.evaluate(solution.model, unseen, measure, per_client=True)
    for writer in unseen:
        print(f"  {writer}: {per_client[writer]['accuracy']:.1%}")

    plot(solution, args.output / "quickstart.png")


def plot(solution, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in ("unseen writers/accuracy", "held-out digits/accuracy"):
        label = name.removesuffix("/accuracy")
        eqf.plot.learning_curves({label: solution}, name, ax=ax)
    ax.set(ylabel="accuracy", ylim=(0.7, 1.0))
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
