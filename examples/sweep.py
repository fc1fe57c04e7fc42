"""Thirty-two trainings in one compiled program.

Hyper-parameters are arrays, so trainings that differ in them alone are one program
with one more axis: `equifed.sweep` trains 8 client learning rates x 4 seeds side by
side. The same runs are then made one after another; both end in the same models where
training is stable, and both times are printed.

    python examples/sweep.py [--rounds 30] [--output sweep.png]
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf


BATCHING = eqf.data.Epochs(1, batch_size=16)


def loss(model, example, key):
    logits = model(example["image"].reshape(-1).astype(jnp.float32) / 16)
    right = eqf.accuracy(logits, example["label"])
    return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}


def start(key):
    return eqx.nn.MLP(64, 10, 64, 1, key=key)


def one_by_one(algorithms, loader, num_rounds, keys):
    """The same trainings in a loop. The round is compiled once for all of them."""
    ends = {}
    for label, algorithm in algorithms.items():
        ends[label] = []
        for key in keys:
            state = algorithm.init(start(key), num_clients=loader.num_clients)
            arguments = {"num_rounds": num_rounds, "key": key}
            *_, (state, _) = eqf.rounds(algorithm, state, loader, **arguments)
            ends[label].append(state)
    return ends


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--output", default="sweep.png")
    args = parser.parse_args()

    rates = np.logspace(-2.5, 0.5, 8)
    algorithms = {f"{r:.4f}": eqf.FedAvg(loss, optax.sgd(r), BATCHING) for r in rates}
    keys = jr.split(jr.key(0), 4)
    sampler = eqf.data.UniformSampler(7, seed=0)
    loader = eqf.data.Loader(eqf.data.digits(), sampler, BATCHING)

    begin = time.perf_counter()
    runs = eqf.sweep(algorithms, start, loader, num_rounds=args.rounds, keys=keys)
    side_by_side = time.perf_counter() - begin
    begin = time.perf_counter()
    again = jax.block_until_ready(one_by_one(algorithms, loader, args.rounds, keys))
    in_turn = time.perf_counter() - begin
    # Long trainings amplify rounding: compare where training is stable.
    for label in list(algorithms)[:6]:
        for one, other in zip(runs[label], again[label], strict=True):
            leaves = jax.tree.leaves(one.state.params), jax.tree.leaves(other.params)
            for a, b in zip(*leaves, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)
    print(f"32 trainings of {args.rounds} rounds, compilation included:")
    print(f"  one vmapped program  {side_by_side:6.1f} s")
    print(f"  one after another    {in_turn:6.1f} s")

    # One that diverged ended in an earlier round, and has no last loss.
    final = np.array(
        [
            [
                run.history[-1]["loss"] if len(run.history) == args.rounds else np.nan
                for run in several
            ]
            for several in runs.values()
        ]
    )
    print("client learning rate   training loss after the last round (4 seeds)")
    for rate, row in zip(rates, final, strict=True):
        print(f"{rate:20.4f}   mean {row.mean():6.3f}   max {row.max():6.3f}")
    print(f"the best of them: {best(rates, final):.4f}")
    plot(rates, final, args.output)


def best(rates, losses):
    """The rate of the smallest mean loss over the seeds (the last axis).

    A training in which no client had a finite message has no loss: it is NaN, and so is
    the mean of a rate at which some seed diverged.
    """
    means = np.where(np.isfinite(losses), losses, np.nan).mean(-1)
    if np.isnan(means).all():
        raise ValueError("Every rate diverged with some seed: try smaller ones.")
    return float(rates[np.nanargmin(means)])


def plot(grid, final, output):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    ax.fill_between(grid, final.min(1), final.max(1), alpha=0.25, label="4 seeds")
    ax.plot(grid, final.mean(1), marker="o", label="mean")
    ax.set(xscale="log", xlabel="client learning rate", ylabel="training loss")
    ax.legend()
    figure.savefig(output, dpi=150)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
