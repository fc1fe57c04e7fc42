"""Accuracy against epsilon: three kinds of noise on the digits of real writers.

49 of 539 writers take part in a round, with two epochs of a small dense network on
images of 14 x 14 pixels; 220 rounds. Independent noise with Poisson samples, and noise
correlated over rounds (a tree, bands) with passes in one order, where a writer comes
back after 11 rounds; for comparison, independent noise with the same passes. Each has
the least noise for its epsilon, and is held against its plan. The clipping norm is
chosen for each point with one seed on 97 writers that are not used again; the figures
are of three seeds on the other 200 that nobody trains on.

    python examples/privacy.py --data mnist_by_writer

The data are the two files of `mnist_by_writer.py`. `--quick` sees whether it runs.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import time

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf
import equifed.privacy as eqp


BATCHING = eqf.data.Epochs(2, batch_size=20)
COHORT, DELTA = 49, 1e-4
TEN_TIMES = eqp.Deployment(num_clients=5390, cohort_size=490)
ACCURACY = "unseen writers/accuracy"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is run."""

    rounds: int = 220
    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    norms: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    seeds: int = 3


QUICK = Size(rounds=12, epsilons=(4.0,), norms=(0.3, 1.0), seeds=2)


def loss(model, example, key):
    pixels = example["image"].reshape(14, 2, 14, 2).astype(jnp.float32) / 255
    logits = model(pixels.mean((1, 3)).reshape(-1))
    right = eqf.accuracy(logits, example["label"])
    return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}


def start(key):
    return eqx.nn.MLP(196, 10, 32, 1, key=key)


def schemes(num_clients, rounds):
    """The sampler and the noise of each."""
    drawn = eqf.data.PoissonSampler(COHORT / num_clients, seed=0)
    passes = eqf.data.ShuffledSampler(COHORT, reshuffle=False, seed=0)
    bands = min(num_clients // COHORT, rounds)
    return {
        "independent, Poisson samples": (drawn, eqp.IndependentNoise()),
        "banded, passes": (passes, eqp.BandedNoise(bands, rounds)),
        "tree, passes": (passes, eqp.TreeNoise()),
        "independent, passes": (passes, eqp.IndependentNoise()),
    }


def plan_of(sampler, noise, epsilon, num_clients, rounds):
    """The plan with the least noise for an epsilon; the norm does not matter to it."""
    mechanism = eqp.PrivateMean(
        eqp.FlatClip(1.0),
        noise_multiplier=1.0,
        expected_clients=COHORT,
        noise=noise,
    )
    return eqp.PrivacyPlan(
        sampler,
        mechanism,
        num_clients=num_clients,
        num_rounds=rounds,
        delta=DELTA,
        deployment=TEN_TIMES,
    ).for_epsilon(epsilon)


def clipped(plan, norm):
    """The same plan with another norm."""
    return eqx.tree_at(
        lambda p: p.mechanism.clipping.max_norm, plan, jnp.asarray(norm, jnp.float32)
    )


def swept(aggregators, sampler, train, test, rounds, keys, plans=None):
    """For each label the trainings with one aggregator, seed by seed."""
    algorithms = {
        label: eqf.FedAvg(loss, optax.sgd(0.3), BATCHING, aggregator=aggregator)
        for label, aggregator in aggregators.items()
    }
    return eqf.sweep(
        *(algorithms, start, eqf.data.Loader(train, sampler, BATCHING)),
        num_rounds=rounds,
        keys=keys,
        evaluation={"unseen writers": test},
        eval_every=rounds,
        privacy=plans,
    )


def chosen(plans, size, sampler, train, held_out):
    """For each epsilon the norm that is best on writers held out for that."""
    parts = {
        (epsilon, norm): clipped(plan, norm)
        for epsilon, plan in plans.items()
        for norm in size.norms
    }
    runs = swept(
        {label: plan.mechanism for label, plan in parts.items()},
        *(sampler, train, held_out, size.rounds, [jr.key(100)]),
    )
    best = {}
    for epsilon in plans:
        found = {n: ended(runs[epsilon, n][0]) for n in size.norms}
        best[epsilon] = max(found, key=found.__getitem__)
    return best


def ended(solution):
    """The accuracy at the end; 0 if the model is no longer finite."""
    return solution.history[-1].get(ACCURACY, 0.0)


def measured(name, scheme, size, data, keys):
    """A row for each epsilon."""
    train, held_out, test = data
    sampler, noise = scheme
    plans = {
        epsilon: plan_of(sampler, noise, epsilon, train.num_clients, size.rounds)
        for epsilon in size.epsilons
    }
    norms = chosen(plans, size, sampler, train, held_out)
    plans = {epsilon: clipped(plan, norms[epsilon]) for epsilon, plan in plans.items()}
    mechanisms = {epsilon: plan.mechanism for epsilon, plan in plans.items()}
    runs = swept(mechanisms, sampler, train, test, size.rounds, keys, plans)
    return [
        {
            "noise": name,
            "wanted": epsilon,
            "epsilon": runs[epsilon][0].history[-1]["epsilon"],
            "deployed_epsilon": runs[epsilon][0].history[-1]["deployed_epsilon"],
            "norm": norms[epsilon],
            "noise_multiplier": plan.noise_multiplier,
            "accuracy": [ended(solution) for solution in runs[epsilon]],
        }
        for epsilon, plan in plans.items()
    ]


def not_private(name, sampler, size, data, keys):
    """The same mean of fixed denominator, without clipping and noise."""
    train, _, test = data
    mean = eqf.FixedDenominatorMean(COHORT)
    runs = swept({"none": mean}, sampler, train, test, size.rounds, keys)
    accuracies = [ended(solution) for solution in runs["none"]]
    return {"noise": name, "epsilon": math.inf, "accuracy": accuracies}


def report(rows):
    for row in rows:
        values, text = np.array(row["accuracy"]), " " * 28
        if "norm" in row:
            text = (
                f"{row['deployed_epsilon']:9.3f} {row['noise_multiplier']:11.3f} "
                f"{row['norm']:5g} "
            )
        print(
            f"{row['noise']:28} {row['epsilon']:7.2f} {text} {values.mean():8.2%} "
            f"({values.min():.2%} to {values.max():.2%})",
            flush=True,
        )


def plot(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 4.4), layout="constrained")
    names = list(dict.fromkeys(row["noise"] for row in rows if "norm" in row))
    for i, name in enumerate(names):
        own = [row for row in rows if row["noise"] == name]
        epsilons = [row["wanted"] for row in own]
        values = np.array([row["accuracy"] for row in own])
        style = {"color": f"C{i}", "marker": "osD^"[i]}
        ax.plot(epsilons, values.mean(1), label=name, markersize=5, **style)
        ax.fill_between(
            epsilons, values.min(1), values.max(1), color=f"C{i}", alpha=0.2
        )
    free = [row["accuracy"] for row in rows if "norm" not in row]
    ax.axhline(np.mean(free), color="0.4", linewidth=1, label="not private")
    ticks = sorted({row["wanted"] for row in rows if "norm" in row})
    ax.set(xscale="log", xlabel=f"epsilon, at a delta of {DELTA:g}", xticks=ticks)
    ax.set(ylabel="accuracy on unseen writers", ylim=(None, 0.95))
    ax.set_xticklabels([f"{x:g}" for x in ticks])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small", loc="lower right")
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    size = QUICK if args.quick else Size()
    train, rest = (
        eqf.data.FederatedDataset.from_parquet(
            args.data / f"{split}.parquet", by="client_id", columns=["image", "label"]
        )
        for split in ("train", "test")
    )
    held_out, test = rest.select(list(range(97))), rest.select(list(range(97, 297)))
    data, keys = (train, held_out, test), jr.split(jr.key(0), size.seeds)
    rows, begin = [], time.perf_counter()
    those = schemes(train.num_clients, size.rounds)
    print("noise                        epsilon  ten-fold  multiplier  norm  accuracy")
    for name, scheme in those.items():
        found = measured(name, scheme, size, data, keys)
        report(found)
        rows += found
    for name in ("Poisson samples", "passes"):
        sampler = those[f"independent, {name}"][0]
        found = not_private(f"not private, {name}", sampler, size, data, keys)
        report([found])
        rows.append(found)
    print(f"{time.perf_counter() - begin:.0f} s")
    (args.output / "privacy.json").write_text(json.dumps(rows, indent=1) + "\n")
    plot(rows, args.output / "privacy.png")


if __name__ == "__main__":
    main()
