"""Attacks against defences: what accuracy is left on the digits of real writers.

25 writers take part in every round, 5 of them attackers. Each cell of the table is one
`eqf.sweep`: a training of 30 rounds for each of three seeds (of the model and of what
an attack or a rule draws), side by side in one program.

    python examples/attacks.py --data mnist_by_writer

The data are the two files of `mnist_by_writer.py`; the images are halved to 14 x 14.
"""

import argparse
import json
import pathlib
import time

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax

import equifed as eqf
import equifed.attacks as eqa
import equifed.robust as eqr


N, F = 25, 5  # writers, and how many of them attack
NUM_ROOT = 100  # of the server's own examples, by writers who do not take part
NUM_TEST = 60  # writers of the test set
TARGET = 0  # what the backdoor makes of digits with a white corner
BATCHING = eqf.data.Epochs(1, batch_size=20)


def loss(model, example, key):
    logits = model(example["image"].reshape(-1))
    right = eqf.accuracy(logits, example["label"])
    return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}


def fedavg(aggregator):
    return eqf.FedAvg(loss, optax.sgd(0.3), BATCHING, aggregator=aggregator)


TRUST = "FLTrust"
DEFENCES = {
    "mean": fedavg(eqf.UniformMean()),
    "norm bound": fedavg(eqf.Clip(eqf.UniformMean(), 0.5)),
    "median": fedavg(eqf.Median()),
    "trimmed mean": fedavg(eqf.TrimmedMean(F / N)),
    "geometric median": fedavg(eqr.GeometricMedian(8)),
    "centred clipping": fedavg(eqr.CentredClipping(0.5, num_iterations=3)),
    "Krum": fedavg(eqr.Krum(F)),
    "multi-Krum": fedavg(eqr.Krum(F, num_selected=N - 2 * F)),
    "Bulyan": fedavg(eqr.Bulyan(F)),
    "DnC": fedavg(eqr.DnC(F, 2000)),
    "buckets + trimmed": fedavg(eqr.Bucketing(eqf.TrimmedMean(F / 13), 2)),
    "NNM + median": fedavg(eqr.NearestNeighbourMixing(eqf.Median(), F)),
    TRUST: eqf.FLTrust(loss, optax.sgd(0.3), BATCHING, root=N),
}
# Of messages; those of `poisoned` are in the examples.
ATTACKS = {
    "none": None,
    "label flip": None,
    "sign flip, 3 times": eqa.SignFlip(3.0),
    "noise": eqa.Noise(1.0),
    "ALIE": eqa.ALIE(),
    "IPM, 0.5": eqa.IPM(0.5),
    "IPM, 10": eqa.IPM(10.0),
    "min-max": eqa.MinMax(),
    "min-sum": eqa.MinSum(),
    "mimic": eqa.Mimic(),
    "adaptive": eqa.Adaptive(num_steps=5),
    "backdoor": eqa.ModelReplacement(),
}
SUCCESS = "backdoor: success"


def trigger(examples):
    images = examples["image"].copy()
    images[:, :2, :2] = 1.0
    return {**examples, "image": images}


def read(path, clients):
    raw = eqf.data.FederatedDataset.from_parquet(
        path, by="client_id", columns=["image", "label"]
    ).select(list(clients))
    image = np.asarray(raw.columns["image"], np.float32).reshape(-1, 14, 2, 14, 2)
    columns = {
        "image": image.mean((2, 4)) / 255,
        "label": np.asarray(raw.columns["label"], np.int32),
    }
    return eqf.data.FederatedDataset(columns, raw.offsets, raw.client_ids)


def with_root(data, root):
    """The dataset and one client more, with the server's examples."""
    columns = {
        name: np.concatenate([x, root.columns[name][:NUM_ROOT]])
        for name, x in data.columns.items()
    }
    offsets = np.append(data.offsets, data.offsets[-1] + NUM_ROOT)
    ids = [*data.client_ids, "the server"]
    return eqf.data.FederatedDataset(columns, offsets, ids)


def model(key):
    return eqx.nn.MLP(196, 10, 32, 1, key=key)


def cell(attack, algorithm, data, clients, num_rounds, seeds):
    """The trainings of one attack and one defence: a solution for each seed."""
    if attack is not None:
        algorithm = eqa.Attacked(algorithm, attack, clients)
    loader = eqf.data.Loader(data, eqf.data.AllClients(), BATCHING)
    keys = jr.split(jr.key(0), seeds)
    runs = eqf.sweep({"": algorithm}, model, loader, num_rounds=num_rounds, keys=keys)
    return runs[""]


@eqx.filter_jit
def predicted(model, images):
    return jax.vmap(model)(images.reshape(len(images), -1)).argmax(1)


def accuracies(solutions, data):
    """Of each seed; a training that diverged has the model from before it did."""
    images, labels = data.columns["image"], data.columns["label"]
    return [float(np.mean(predicted(s.model, images) == labels)) for s in solutions]


def table(folder, attacks, defences, num_rounds, seeds):
    """The accuracies of each cell, by seed: `{attack: {defence: [...]}}`, as far as it
    is known after each attack."""
    data = read(folder / "train.parquet", range(N))
    root = read(folder / "train.parquet", range(N, N + 10))
    test = read(folder / "test.parquet", range(NUM_TEST))
    clients = eqa.byzantine_clients(N, F, seed=0)
    poisoned = {
        "label flip": eqa.flip_labels(data, clients, 10),
        "backdoor": eqa.backdoored(data, clients, trigger, TARGET, share=0.5),
    }
    stamped = eqa.triggered(test, trigger, TARGET)
    found = {}
    print("| attack |", " | ".join(defences), "|")
    print("| --- |", " | ".join(["--:"] * len(defences)), "|")
    for name in attacks:
        rows = {name: {}} | ({SUCCESS: {}} if name == "backdoor" else {})
        for defence in defences:
            seen = poisoned.get(name, data)
            seen = with_root(seen, root) if defence == TRUST else seen
            parts = (ATTACKS[name], DEFENCES[defence], seen, clients)
            solutions = cell(*parts, num_rounds, seeds)
            for row in rows:
                on = stamped if row == SUCCESS else test
                rows[row][defence] = accuracies(solutions, on)
        for row, cells in rows.items():
            means = [f"{100 * np.mean(x):.0f}" for x in cells.values()]
            print(f"| {row} |", " | ".join(means), "|", flush=True)
        found |= rows
        yield found


def plot(found, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows, columns = list(found), list(next(iter(found.values())))
    values = np.array([[100 * np.mean(x) for x in c.values()] for c in found.values()])
    # Of an attack's success less is better.
    good = np.where(np.array(rows)[:, None] == SUCCESS, 100 - values, values)
    figure, ax = plt.subplots(figsize=(9, 6.2), layout="constrained")
    image = ax.imshow(good, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for place, value in np.ndenumerate(values):
        color = "white" if good[place] < 55 else "black"
        ax.text(*place[::-1], f"{value:.0f}", ha="center", va="center", color=color)
    ax.set_xticks(range(len(columns)), columns, rotation=40, ha="right")
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for i, row in enumerate(rows):
        if row in ("none", "backdoor"):
            ax.axhline(i + 0.5, color="white", lw=3)
    ax.set(ylabel=f"attack, by {F} of {N} clients", xlabel="defence")
    label = "test accuracy, %; of the last row: 100 - success"
    figure.colorbar(image, ax=ax, label=label, pad=0.02).outline.set_visible(False)
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS))
    parser.add_argument("--defences", nargs="*", default=list(DEFENCES))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="to see that it runs")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seeds = 2, 1
    args.output.mkdir(parents=True, exist_ok=True)
    begin = time.process_time()
    parts = (args.data, args.attacks, args.defences, args.rounds, args.seeds)
    for found in table(*parts):
        (args.output / "attacks.json").write_text(json.dumps(found), "utf-8")
    spread = 100 * np.array([np.std(x) for c in found.values() for x in c.values()])
    print(f"greatest deviation over seeds: {spread.max():.1f} points")
    print(f"{(spread < 1).sum()} of {spread.size} cells deviate by less than 1 point")
    print(f"{time.process_time() - begin:.0f} s of CPU time")
    plot(found, args.output / "attacks.png")


if __name__ == "__main__":
    main()
