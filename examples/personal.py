"""Fifteen ways to personal models beside FedAvg, on four sets of real clients.

Phone users (activities), writers (digits), hospitals (heart disease) and patients (the
severity of Parkinson's disease, from their voices). A fifth of every client's examples
is held out; each client's own model is measured on its own. All methods take the same
steps on the same clients in the same rounds; the clients' learning rate is chosen for
each by one seed, on a further fifth of the training examples (`--tune`).

    python examples/personal.py --data DIR
    python examples/personal.py --data DIR --tune

`DIR` has the folders `wisdm_har`, `heart_disease` and `parkinsons_telemonitoring`, each
with an `all.parquet` of `client_id`, `features` and a target, and the `train.parquet`
of `mnist_by_writer.py` in `mnist_by_writer`; those that are not there are left out.
"""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf


BATCHING = eqf.data.Epochs(3, batch_size=20)
RATES = (0.03, 0.1, 0.3)


class Net(eqx.Module):
    """A body with a normalised hidden layer, and a head."""

    body: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, sizes, key):
        body_key, head_key = jr.split(key)
        num_inputs, width, num_outputs = sizes
        self.body = eqx.nn.Linear(num_inputs, width, key=body_key)
        self.norm = eqx.nn.LayerNorm(width)
        self.head = eqx.nn.Linear(width, num_outputs, key=head_key)

    def features(self, x):
        return jax.nn.relu(self.norm(self.body(x)))

    def __call__(self, x):
        return self.head(self.features(x))


def logits(model, example, key):
    return model(example["x"].astype(model.body.weight.dtype))


def features(model, example, key):
    return model.features(example["x"].astype(model.body.weight.dtype))


def head_of(model):
    return model.head


def classify(model, example, key):
    scores = logits(model, example, key)
    right = eqf.accuracy(scores, example["label"])
    return eqf.cross_entropy(scores, example["label"]), {"accuracy": right}


def regress(model, example, key):
    error = logits(model, example, key)[0] - example["target"]
    return 0.5 * error**2, {"error": jnp.abs(error)}


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, and what is learnt of it."""

    name: str
    title: str
    read: Callable[[pathlib.Path], eqf.data.FederatedDataset]
    sizes: tuple[int, int, int]
    cohort_size: int
    num_rounds: int
    loss: Callable = classify
    metric: str = "accuracy"
    sign: int = 1  # whether more is better


def table(folder, target):
    return eqf.data.FederatedDataset.from_parquet(
        folder / "all.parquet", by="client_id", columns=["features", target]
    )


def classes(folder, count):
    raw = table(folder, "label")
    label = np.minimum(np.asarray(raw.columns["label"], np.int32), count - 1)
    return with_columns(raw, x=raw.columns["features"], label=label)


def severity(folder):
    raw = table(folder, "total_updrs")
    target = np.asarray(raw.columns["total_updrs"], np.float32)
    # In units of ten points, around the middle of the scale of this study.
    return with_columns(raw, x=raw.columns["features"], target=(target - 29) / 10)


def with_columns(raw, **columns):
    columns = {name: np.asarray(x) for name, x in columns.items()}
    return eqf.data.FederatedDataset(columns, raw.offsets, raw.client_ids)


def standardised(train, *others):
    """All by the means and deviations of the training examples; what is missing is the
    mean, and said to be missing in columns of their own."""
    x = np.asarray(train.columns["x"], np.float32)
    some, scale = np.isnan(x).any(0), np.nanstd(x, 0)
    mean, scale = np.nanmean(x, 0), np.where(scale > 0, scale, 1)

    def one(data):
        x = np.asarray(data.columns["x"], np.float32)
        missing = np.isnan(x)
        x = np.where(missing, 0, (x - mean) / scale)
        x = np.concatenate([x, missing[:, some]], 1).astype(np.float32)
        return with_columns(data, **{**data.columns, "x": x})

    return [one(data) for data in (train, *others)]


def writers(folder):
    raw = eqf.data.FederatedDataset.from_parquet(
        folder / "train.parquet", by="client_id", columns=["image", "label"]
    )
    # Every fifth, which spares an hour.
    raw = raw.select(list(range(0, len(raw), 5)))
    x = np.asarray(raw.columns["image"], np.float32).reshape(-1, 784) / 255
    return with_columns(raw, x=x, label=np.asarray(raw.columns["label"], np.int32))


TASKS = (
    Task(
        *("wisdm_har", "activity of 36 phone users", lambda f: classes(f, 6)),
        sizes=(46, 64, 6),
        cohort_size=10,
        num_rounds=150,
    ),
    Task(
        *("mnist_by_writer", "digits of 108 writers", writers),
        sizes=(784, 64, 10),
        cohort_size=20,
        num_rounds=100,
    ),
    Task(
        *("heart_disease", "heart disease in 4 hospitals", lambda f: classes(f, 2)),
        sizes=(23, 16, 2),
        cohort_size=4,
        num_rounds=60,
    ),
    Task(
        *("parkinsons_telemonitoring", "UPDRS/10 of 42 patients", severity),
        sizes=(19, 32, 1),
        cohort_size=10,
        num_rounds=150,
        loss=regress,
        metric="error",
        sign=-1,
    ),
)


def methods(task, model):
    """For each method what makes it of a learning rate; the roles of its leaves; and
    whether a client fine-tunes before it is measured."""
    loss, head = task.loss, eqf.roles(model, personal=lambda m: m.head)
    frozen = eqf.roles(model, frozen=lambda m: m.head)

    def plain(kind, **kwargs):
        return lambda rate: kind(loss, optax.sgd(rate), BATCHING, **kwargs)

    def pfedme(rate):
        return eqf.PFedMe(
            *(loss, optax.sgd(rate), BATCHING), lam=5.0, own_learning_rate=rate
        )

    def per_fedavg(rate):
        return eqf.PerFedAvg(loss, optax.sgd(rate), BATCHING, alpha=rate)

    found: dict[str, tuple[Callable, Any, bool]] = {
        "LocalOnly": (plain(eqf.LocalOnly), None, False),
        "FedAvg": (plain(eqf.FedAvg), None, False),
        "FedAvg + tuning": (plain(eqf.FedAvg), None, True),
        "FedPer": (plain(eqf.FedPer), head, False),
        "LG-FedAvg": (
            plain(eqf.LGFedAvg),
            eqf.roles(model, personal=lambda m: m.body),
            False,
        ),
        "FedRep": (plain(eqf.FedRep, personal_parts=2), head, False),
        "FedAlt": (plain(eqf.FedAlt), head, False),
        "FedBN": (plain(eqf.FedBN), eqf.roles(model, personal=eqf.norms), False),
        "FedBABU + tuning": (plain(eqf.FedBABU), frozen, True),
        "Ditto": (plain(eqf.Ditto, lam=0.1), None, False),
        "APFL": (plain(eqf.APFL, alpha_learning_rate=0.1), None, False),
        "pFedMe": (pfedme, None, False),
        "Per-FedAvg + tuning": (per_fedavg, None, True),
        "FedALA": (plain(eqf.FedALA, adapts=head_of), None, False),
        "MOON": (plain(eqf.MOON, representation=features, mu=0.1), None, False),
    }
    if task.loss is classify:
        found["FedRoD"] = (
            plain(eqf.FedRoD, logits=logits, head=head_of),
            *(None, False),
        )
        found["FedProto"] = (
            plain(
                eqf.FedProto,
                representation=features,
                num_classes=task.sizes[2],
                num_features=task.sizes[1],
                lam=0.1,
            ),
            *(None, False),
        )
    return found


def trained(task, algorithms, roles, data, num_rounds, keys):
    sampler = eqf.data.UniformSampler(task.cohort_size, seed=0)
    return eqf.sweep(
        algorithms,
        lambda key: Net(task.sizes, key),
        eqf.data.Loader(data, sampler, BATCHING),
        num_rounds=num_rounds,
        keys=keys,
        roles=roles,
    )


def measured(task, algorithm, solution, rate, tunes, data, test):
    """What each client's own model makes of its own examples; `None` if the training
    did not come to its end."""
    if solution.result != eqf.RESULTS.successful:
        return None
    tune = eqf.FineTune(task.loss, optax.sgd(rate), BATCHING) if tunes else None
    return eqf.evaluate_personal(
        *(algorithm, solution.state, test, task.loss), clients=data, fine_tune=tune
    )


def chosen(task, make, roles, tunes, data, num_rounds):
    """The rate at which the clients' own models are best on examples held back."""
    fit, held_back = data.split_examples(0.2, seed=1)
    algorithms = {str(rate): make(rate) for rate in RATES}
    runs = trained(task, algorithms, roles, fit, num_rounds, [jr.key(100)])
    scores = {}
    for rate in RATES:
        (solution,) = runs[str(rate)]
        parts = (task, algorithms[str(rate)], solution, rate, tunes)
        found = measured(*parts, fit, held_back)
        score = np.nan if found is None else task.sign * found.mean(task.metric)
        scores[rate] = np.nan_to_num(score, nan=-np.inf)
    return max(scores, key=scores.__getitem__)


def compared(task, data_dir, seeds, tune, rates):
    """The table of one data set: for each method the clients' metrics, by seed."""
    data, test = task.read(data_dir / task.name).split_examples(0.2, seed=0)
    if task.name != "mnist_by_writer":
        data, test = standardised(data, test)
    keys, found = jr.split(jr.key(0), seeds), {}
    for name, (make, roles, tunes) in methods(task, Net(task.sizes, jr.key(0))).items():
        begin = time.perf_counter()
        if tune:
            rates[name] = chosen(task, make, roles, tunes, data, task.num_rounds)
        rate = rates.get(name, 0.1)
        algorithm = make(rate)
        runs = trained(task, {name: algorithm}, roles, data, task.num_rounds, keys)
        found[name] = [
            measured(task, algorithm, solution, rate, tunes, data, test)
            for solution in runs[name]
        ]
        report(task, name, rate, found, time.perf_counter() - begin)
    return found


def numbers(task, found):
    """Of each seed the mean over clients, and over the tenth that is worst off."""
    end = "low" if task.sign > 0 else "high"
    whole = [np.nan if x is None else x.mean(task.metric) for x in found]
    worst = [np.nan if x is None else x.tail(task.metric, 0.1, end=end) for x in found]
    return np.array(whole), np.array(worst)


def better_than(task, found, base):
    """The share of clients that are better off than under another method."""
    shares = []
    for one, other in zip(found, base, strict=True):
        if one is None or other is None:
            return np.nan
        gain = task.sign * (one.values[task.metric] - other.values[task.metric])
        shares.append((gain[~np.isnan(gain)] > 0).mean())
    return float(np.mean(shares))


def report(task, name, rate, found, seconds):
    whole, worst = numbers(task, found[name])
    better = [
        better_than(task, found[name], found.get(x, found[name]))
        for x in ("FedAvg", "LocalOnly")
    ]
    print(
        f"{task.name:26} {name:20} {rate:5} {whole.mean():7.4f} ± {whole.std():.4f} "
        f"{worst.mean():7.4f} {better[0]:6.0%} {better[1]:6.0%} {seconds:5.0f} s",
        flush=True,
    )


def plot(folder):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    files = {task: folder / f"personal_{task.name}.json" for task in TASKS}
    found = {t: json.loads(f.read_text()) for t, f in files.items() if f.exists()}
    names = list(max((x["clients"] for x in found.values()), key=len))
    figure, axes = plt.subplots(
        *(1, len(found)),
        figsize=(1.5 + 3.2 * len(found), 5.5),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for ax, (task, saved) in zip(axes[0], found.items(), strict=True):
        clients = {n: [told(task, x) for x in v] for n, v in saved["clients"].items()}
        for row, name in enumerate(names):
            for i, color, face in ((0, "C0", "C0"), (1, "C1", "none")):
                values = numbers(task, clients.get(name, []))[i]
                rows = np.full(len(values), row)
                ax.plot(values, rows, "o", color=color, mfc=face, alpha=0.7)
        base = numbers(task, clients["FedAvg"])[0].mean()
        ax.axvline(base, color="0.6", lw=1, zorder=0)
        ax.set(title=task.title, xlabel=task.metric, yticks=range(len(names)))
        ax.set_yticklabels(names)
        ax.grid(axis="y", lw=0.3)
        if task.sign < 0:
            ax.invert_xaxis()
    axes[0][0].invert_yaxis()
    for i, label in enumerate(("mean over clients", "worst tenth")):
        face = "none" if i else f"C{i}"
        axes[0][0].plot([], [], "o", color=f"C{i}", mfc=face, label=label)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(folder / "personal.png", dpi=150)
    print(f"wrote {folder / 'personal.png'}")


def told(task, saved):
    """The clients' metrics as they were kept."""
    if saved is None:
        return None
    values, counts = np.array(saved["values"], float), np.array(saved["examples"])
    names = [str(i) for i in range(len(counts))]
    return eqf.ClientMetrics({task.metric: values}, counts, names)


# What `--tune` chose.
CHOSEN: dict[str, dict[str, float]] = {
    "wisdm_har": {
        "LocalOnly": 0.1,
        "FedAvg": 0.1,
        "FedAvg + tuning": 0.1,
        "FedPer": 0.3,
        "LG-FedAvg": 0.3,
        "FedRep": 0.3,
        "FedAlt": 0.1,
        "FedBN": 0.1,
        "FedBABU + tuning": 0.03,
        "Ditto": 0.1,
        "APFL": 0.03,
        "pFedMe": 0.1,
        "Per-FedAvg + tuning": 0.3,
        "FedALA": 0.3,
        "MOON": 0.3,
        "FedRoD": 0.1,
        "FedProto": 0.3,
    },
    "mnist_by_writer": {
        "LocalOnly": 0.3,
        "FedAvg": 0.3,
        "FedAvg + tuning": 0.3,
        "FedPer": 0.3,
        "LG-FedAvg": 0.03,
        "FedRep": 0.1,
        "FedAlt": 0.1,
        "FedBN": 0.3,
        "FedBABU + tuning": 0.03,
        "Ditto": 0.3,
        "APFL": 0.3,
        "pFedMe": 0.1,
        "Per-FedAvg + tuning": 0.3,
        "FedALA": 0.3,
        "MOON": 0.3,
        "FedRoD": 0.3,
        "FedProto": 0.3,
    },
    "heart_disease": {
        "LocalOnly": 0.03,
        "FedAvg": 0.03,
        "FedAvg + tuning": 0.03,
        "FedPer": 0.03,
        "LG-FedAvg": 0.1,
        "FedRep": 0.03,
        "FedAlt": 0.03,
        "FedBN": 0.03,
        "FedBABU + tuning": 0.03,
        "Ditto": 0.03,
        "APFL": 0.03,
        "pFedMe": 0.3,
        "Per-FedAvg + tuning": 0.03,
        "FedALA": 0.03,
        "MOON": 0.03,
        "FedRoD": 0.03,
        "FedProto": 0.03,
    },
    "parkinsons_telemonitoring": {
        "LocalOnly": 0.1,
        "FedAvg": 0.03,
        "FedAvg + tuning": 0.1,
        "FedPer": 0.1,
        "LG-FedAvg": 0.1,
        "FedRep": 0.1,
        "FedAlt": 0.1,
        "FedBN": 0.03,
        "FedBABU + tuning": 0.03,
        "Ditto": 0.1,
        "APFL": 0.1,
        "pFedMe": 0.1,
        "Per-FedAvg + tuning": 0.1,
        "FedALA": 0.1,
        "MOON": 0.03,
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=[task.name for task in TASKS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, help="fewer, to see that it runs")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    print(
        "data, method, rate; mean over clients, worst tenth; better than with FedAvg,"
    )
    print("and than alone")
    for task in TASKS:
        if task.name not in args.tasks or not (args.data / task.name).is_dir():
            continue
        if args.rounds is not None:
            task = dataclasses.replace(task, num_rounds=args.rounds)
        rates = dict(CHOSEN.get(task.name, {}))
        found = compared(task, args.data, args.seeds, args.tune, rates)
        with open(args.output / f"personal_{task.name}.json", "w") as file:
            json.dump({"rates": rates, "clients": kept(task, found)}, file)
    plot(args.output)


def kept(task, found):
    """What is saved of the clients of each method, by seed."""
    return {
        name: [
            None
            if x is None
            else {
                "values": x.values[task.metric].tolist(),
                "examples": x.num_examples.tolist(),
            }
            for x in several
        ]
        for name, several in found.items()
    }


if __name__ == "__main__":
    main()
