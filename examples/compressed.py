"""Accuracy against megabytes: FedAvg on the digits of real writers, with messages that
are compressed in seven ways.

20 of 539 writers take part in a round, with three epochs of a small dense network; the
model is evaluated on 297 writers that nobody has seen. What was sent is counted by the
rounds themselves (`bits_up`, `bits_down`), to the last bit.

    python examples/compressed.py --data mnist_by_writer

The data are the two files of `mnist_by_writer.py`.
"""

import argparse
import json
import pathlib

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf
import equifed.compress as eqc


BATCHING = eqf.data.Epochs(3, batch_size=20)
ACCURACY, TARGET = "unseen writers/accuracy", 0.95


def loss(model, example, key):
    logits = model(example["image"].astype(jnp.float32) / 255)
    right = eqf.accuracy(logits, example["label"])
    return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}


def compressing(compressor):
    """FedAvg whose messages are compressed on their way."""
    aggregator = eqc.Compress(eqf.WeightedMean(), compressor)
    return eqf.FedAvg(loss, optax.sgd(0.3), BATCHING, aggregator=aggregator)


def remembering(compressor):
    """FedAvg whose clients send later what a compressor has lost."""
    plain = eqf.FedAvg(loss, optax.sgd(0.3), BATCHING)
    client = eqc.CompressedClient(plain.client, eqc.ErrorFeedback(compressor))
    return eqf.Algorithm(client, plain.aggregator, plain.server)


SCHEMES = {
    "none": lambda: eqf.FedAvg(loss, optax.sgd(0.3), BATCHING),
    "256 levels": lambda: compressing(eqc.UniformQuantizer(256)),
    "4 levels": lambda: compressing(eqc.UniformQuantizer(4)),
    "4 levels, rotated": lambda: compressing(eqc.Rotated(eqc.UniformQuantizer(4))),
    "DRIVE": lambda: compressing(eqc.DRIVE()),
    "sign, with feedback": lambda: remembering(eqc.Sign()),
    "top 1%, with feedback": lambda: remembering(eqc.TopK(0.01)),
    "PowerSGD, with feedback": lambda: remembering(eqc.PowerSGD(2)),
}


def megabytes(solution, names=("bits_up", "bits_down")):
    """What all clients together had sent by each round."""
    each = [sum(row[name] for name in names) for row in solution.history]
    return np.cumsum(np.array(each, np.float64)) / 8e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    train, test = (
        eqf.data.FederatedDataset.from_parquet(
            args.data / f"{split}.parquet", by="client_id", columns=["image", "label"]
        )
        for split in ("train", "test")
    )
    loader = eqf.data.Loader(train, eqf.data.UniformSampler(20, seed=0), BATCHING)

    solutions = {}
    print(
        "compression              accuracy   MB up a round   95% with MB up, MB in all"
    )
    for name, make in SCHEMES.items():
        solutions[name] = eqf.train(
            make(),
            eqx.nn.MLP(784, 10, 100, 1, key=jr.key(0)),
            loader,
            num_rounds=args.rounds,
            key=jr.key(0),
            evaluation={"unseen writers": test},
            eval_every=5,
            logger=eqf.NoLogger(),
        )
        report(name, solutions[name])
    with open(args.output / "compressed.json", "w") as file:
        json.dump({name: s.history for name, s in solutions.items()}, file)
    plot(solutions, args.output / "compressed.png")


def report(name, solution):
    rounds, values = solution.values(ACCURACY)
    up, both = megabytes(solution, ("bits_up",)), megabytes(solution)
    first = next((r for r, x in zip(rounds, values, strict=True) if x >= TARGET), None)
    reached = "never"
    if first is not None:
        reached = f"{up[first - 1]:.1f}, {both[first - 1]:.0f}"
    mean = up[-1] / len(up)
    print(f"{name:24} {values[-1]:8.2%} {mean:13.3f}     {reached}", flush=True)


def plot(solutions, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, 2, figsize=(10, 4.2), sharey=True, layout="constrained"
    )
    panels = (("bits_up",), "sent up"), (("bits_up", "bits_down"), "sent in all")
    for ax, (names, label) in zip(axes, panels, strict=True):
        for i, (name, solution) in enumerate(solutions.items()):
            rounds, values = solution.values(ACCURACY)
            sent = megabytes(solution, names)[np.array(rounds) - 1]
            style = "-" if i < 4 else "--"
            ax.plot(sent, values, style, color=f"C{i}", label=name)
        ax.set(xscale="log", xlabel=f"megabytes {label}", ylim=(0.85, 0.975))
        ax.grid(alpha=0.3)
    axes[0].set(ylabel="accuracy on unseen writers")
    axes[1].legend(fontsize="small")
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
