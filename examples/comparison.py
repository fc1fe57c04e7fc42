"""Nine algorithms on the digits of real writers, at equal rounds, three seeds each.

539 writers, of whom 60 are kept for choosing learning rates; 20 of the others take
part in a round, with three epochs of a small dense network; the model is evaluated on
297 writers that nobody has seen. With `--tune` each algorithm's rates are chosen first,
by one seed, over a grid.

    python examples/comparison.py --data mnist_by_writer
    python examples/comparison.py --data mnist_by_writer --tune

The data are the two files of `mnist_by_writer.py`.
"""

import argparse
import itertools
import json
import pathlib
import time

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf


BATCHING = eqf.data.Epochs(3, batch_size=20)
UNSEEN, TARGET = "unseen writers/accuracy", 0.96


def loss(model, example, key):
    logits = model(example["image"].astype(jnp.float32) / 255)
    right = eqf.accuracy(logits, example["label"])
    return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}


def start(key):
    return eqx.nn.MLP(784, 10, 100, 1, key=key)


RATES = (0.1, 0.3, 1.0)
# What makes each algorithm of a client rate and of a number of its own; the values
# to choose from; and what `--tune` chose.
ALGORITHMS = {
    "FedAvg": (
        lambda rate, _: eqf.FedAvg(loss, optax.sgd(rate), BATCHING),
        (RATES, (None,)),
        (0.3, None),
    ),
    "FedAdam": (
        lambda rate, server: eqf.FedAdam(
            loss, optax.sgd(rate), BATCHING, server_learning_rate=server, tau=1e-3
        ),
        (RATES, (0.003, 0.01)),
        (0.3, 0.01),
    ),
    "Scaffold": (
        lambda rate, _: eqf.Scaffold(loss, optax.sgd(rate), BATCHING, option=1),
        (RATES, (None,)),
        (0.1, None),
    ),
    "Mime": (
        lambda rate, momentum: eqf.Mime(
            loss, optax.sgd(rate, momentum=momentum), BATCHING
        ),
        ((0.03, *RATES), (0.0, 0.9)),
        (0.3, 0.0),
    ),
    "MimeLite": (
        lambda rate, momentum: eqf.MimeLite(
            loss, optax.sgd(rate, momentum=momentum), BATCHING
        ),
        ((0.03, *RATES), (0.0, 0.9)),
        (0.3, 0.0),
    ),
    "FedDyn": (
        lambda rate, alpha: eqf.FedDyn(loss, optax.sgd(rate), BATCHING, alpha=alpha),
        (RATES, (0.01, 0.1)),
        (0.3, 0.1),
    ),
    "FedCM": (
        # A server rate of the client's rate times about 17 steps is FedAvg's step.
        lambda rate, alpha: eqf.FedCM(
            loss,
            optax.sgd(rate),
            BATCHING,
            server_optim=optax.sgd(17 * rate),
            alpha=alpha,
        ),
        (RATES, (0.1, 0.3)),
        (1.0, 0.3),
    ),
    "FedExP": (
        lambda rate, epsilon: eqf.FedExP(
            loss, optax.sgd(rate), BATCHING, epsilon=epsilon
        ),
        (RATES, (0.001, 0.1)),
        (0.3, 0.1),
    ),
    "FedSpeed": (
        lambda rate, lam: eqf.FedSpeed(
            loss, optax.sgd(rate), BATCHING, lam=lam, rho=0.05
        ),
        (RATES, (1.0, 10.0)),
        (0.3, 10.0),
    ),
}


def read(folder):
    """The writers to train on, those to choose rates by, and those for the end."""
    train, test = (
        eqf.data.FederatedDataset.from_parquet(
            folder / f"{split}.parquet", by="client_id", columns=["image", "label"]
        )
        for split in ("train", "test")
    )
    order = np.random.default_rng(0).permutation(len(train))
    held_out, rest = np.sort(order[:60]), np.sort(order[60:])
    return train.select(rest.tolist()), train.select(held_out.tolist()), test


def run(algorithms, data, writers, num_rounds, keys):
    sampler = eqf.data.UniformSampler(20, seed=0)
    return eqf.sweep(
        algorithms,
        start,
        eqf.data.Loader(data, sampler, BATCHING),
        num_rounds=num_rounds,
        keys=keys,
        evaluation={"unseen writers": writers},
        eval_every=10,
    )


def last(solution):
    """The accuracy at the end; NaN if the training did not come so far."""
    if solution.result != eqf.RESULTS.successful:
        return float("nan")
    return solution.values(UNSEEN)[1][-1]


def chosen(name, data, writers, num_rounds):
    """The numbers of an algorithm that are best for the writers kept for that."""
    make, grid, _ = ALGORITHMS[name]
    choices = {str(x): x for x in itertools.product(*grid)}
    algorithms = {label: make(*x) for label, x in choices.items()}
    runs = run(algorithms, data, writers, num_rounds, [jr.key(100)])
    found = {label: last(solution) for label, (solution,) in runs.items()}
    print(name, {label: round(x, 4) for label, x in found.items()}, flush=True)
    return choices[max(found, key=lambda label: np.nan_to_num(found[label], nan=-1))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    data, held_out, test = read(args.data)

    runs = {}
    print("algorithm  numbers        unseen writers   96% by round   seconds")
    for name, (make, _, numbers) in ALGORITHMS.items():
        if args.tune:
            numbers = chosen(name, data, held_out, args.rounds // 2)
        begin = time.perf_counter()
        keys = jr.split(jr.key(0), args.seeds)
        ours = run({name: make(*numbers)}, data, test, args.rounds, keys)
        runs |= ours
        report(name, numbers, ours[name], time.perf_counter() - begin)
    with open(args.output / "comparison.json", "w") as file:
        json.dump({k: [s.history for s in v] for k, v in runs.items()}, file)
    plot(runs, args.output / "comparison.png")


def report(name, numbers, solutions, seconds):
    ends = np.array([last(solution) for solution in solutions])
    reached = []
    for solution in solutions:
        rounds, values = solution.values(UNSEEN)
        over = (r for r, x in zip(rounds, values, strict=True) if x >= TARGET)
        reached.append(next(over, None))
    if None in reached:
        when = f"{sum(r is not None for r in reached)} of {len(reached)}"
    else:
        when = f"{min(reached)} to {max(reached)}"
    shown = ", ".join(f"{x:g}" for x in numbers if x is not None)
    accuracy = f"{ends.mean():.2%} ± {ends.std(ddof=1):.2%}" if len(ends) > 1 else ends
    print(f"{name:10} {shown:14} {accuracy!s:16} {when:14} {seconds:.0f}", flush=True)


def plot(runs, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    eqf.plot.learning_curves(runs, UNSEEN, ax=ax)
    ax.set(ylabel="accuracy on unseen writers", ylim=(0.9, 0.985))
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
