"""Accuracy against virtual hours: who waits, and who does not.

539 writers train a perceptron on the digits that they wrote, each on a phone of its
own: speeds, bandwidths and answers differ, phones are there for two fifths of a day,
and one in twenty is lost in a round. FedAvg waits for all of a round's 30 writers, or
for what comes within a minute; FedBuff steps whenever 10 messages are there, FedAsync
at each. All have 30 writers under way at a time, and as many hours. The model is
evaluated on 297 writers that it never sees. Each of three seeds has its own order of
writers, phones and model.

The data are those of `mnist_by_writer.py`.

    python examples/clock.py --data mnist_by_writer
"""

import argparse
import json
import pathlib
import time

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax

import equifed as eqf
import equifed.clock as eqt


BATCHING = eqf.data.Epochs(1, batch_size=20)
SGD = optax.sgd(0.1)
CONCURRENCY = 30
STALEST = 50


class Net(eqx.Module):
    """One hidden layer, for one image of 784 bytes."""

    mlp: eqx.nn.MLP

    def __init__(self, key):
        self.mlp = eqx.nn.MLP(784, 10, 64, 1, key=key)

    def __call__(self, image):
        return self.mlp(image.astype(jnp.float32) / 255)


def loss(model, example, key):
    logits = model(example["image"])
    right = eqf.accuracy(logits, example["label"])
    return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}


def phones(seed):
    return eqt.SystemModel(
        speed=eqt.LogNormal(2e6, 1.0),
        downlink=eqt.LogNormal(2e6, 1.0),
        uplink=eqt.LogNormal(5e5, 1.0),
        latency=eqt.Exponential(10.0, each="round"),
        availability=eqt.DailyAvailability(0.4),
        drops_before=0.03,
        drops_after=0.02,
        seed=seed,
    )


def fedavg():
    return eqf.FedAvg(loss, SGD, BATCHING)


def fedbuff():
    return eqf.FedBuff(loss, SGD, BATCHING, max_staleness=STALEST)


def fedasync():
    return eqf.FedAsync(
        *(loss, SGD, BATCHING),
        max_staleness=STALEST,
        alpha=0.6,
        weight=eqf.PolynomialStaleness(0.5),
    )


def synchronous(system, work, **options):
    return eqt.SynchronousClock(system, work, **options)


def asynchronous(system, work, **options):
    return eqt.AsynchronousClock(system, work, max_staleness=STALEST, **options)


# What makes the algorithm and the clock, and after how many rounds it is evaluated.
RUNS = {
    "FedAvg": (fedavg, synchronous, {}, 2),
    "FedAvg, a minute": (fedavg, synchronous, {"deadline": 60.0}, 5),
    "FedBuff, 10": (fedbuff, asynchronous, {"buffer_size": 10}, 10),
    "FedAsync": (fedasync, asynchronous, {"buffer_size": 1}, 100),
}


def trained(name, train, test, hours, seed):
    make, clock, options, every = RUNS[name]
    algorithm, model = make(), Net(jr.key(seed))
    sampler = eqf.data.UniformSampler(CONCURRENCY, seed=seed)
    # What travels is the model: the ring of old ones stays at the server.
    work = eqt.Work.of(fedavg(), model, eqf.data.Loader(train, sampler, BATCHING))
    loader = eqf.data.Loader(
        *(train, sampler, BATCHING), clock=clock(phones(seed), work, **options)
    )
    rounds = 0
    while loader.report(rounds)["seconds"] < 3600 * hours:
        rounds += 1
    return eqf.train(
        algorithm,
        model,
        loader,
        num_rounds=rounds,
        key=jr.key(seed),
        evaluation={"unseen writers": test},
        eval_every=every,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    train, test = (
        eqf.data.FederatedDataset.from_parquet(
            args.data / f"{split}.parquet", by="client_id", columns=["image", "label"]
        )
        for split in ("train", "test")
    )
    print("method: rounds, messages, lost, late; accuracy at the end; hours to 90%")
    runs = {}
    for name in RUNS:
        begin = time.perf_counter()
        runs[name] = [
            trained(name, train, test, args.hours, seed) for seed in range(args.seeds)
        ]
        report(name, runs[name], time.perf_counter() - begin)
    with open(args.output / "clock.json", "w") as file:
        json.dump(
            {n: [s.history for s in several] for n, several in runs.items()}, file
        )
    plot(runs, args.output / "clock.png")


def mean(values):
    return sum(values) / len(values)


def report(name, solutions, seconds):
    def total(metric):
        return mean([sum(r.get(metric, 0) for r in s.history) for s in solutions])

    ends = [s.history[-1]["unseen writers/accuracy"] for s in solutions]
    reached = [hours_to(0.9, s.history) for s in solutions]
    print(
        f"{name:18} {mean([len(s.history) for s in solutions]):6.0f} "
        f"{total('clients'):7.0f} {total('lost'):6.0f} {total('late'):6.0f} "
        f"{mean(ends):.4f} (from {min(ends):.4f} to {max(ends):.4f}) "
        f"{mean(reached):5.2f} {seconds:4.0f} s",
        flush=True,
    )


def hours_to(accuracy, history):
    return next(
        (
            row["seconds"] / 3600
            for row in history
            if row.get("unseen writers/accuracy", 0) >= accuracy
        ),
        float("nan"),
    )


def plot(runs, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4), layout="constrained", sharey=True
    )
    metric = "unseen writers/accuracy"
    eqf.plot.learning_curves(runs, metric, x="hours", ax=left)
    eqf.plot.learning_curves(runs, metric, x="bytes", ax=right)
    left.get_legend().remove()
    left.set_ylim(0.7, 0.95)
    right.set_ylabel("")
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
