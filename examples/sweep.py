"""Thirty-two trainings in one compiled program.

Hyper-parameters are array leaves, so `eqx.filter_vmap` over a learning rate and a key
trains a whole sweep side by side: 8 client learning rates x 4 seeds. The same runs are
then made one after another; both end in the same models, and both times are printed.

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


def start(learning_rate, key):
    """One training's algorithm and first state."""
    algorithm = eqf.FedAvg(loss, optax.sgd(learning_rate), BATCHING)
    model = eqx.nn.MLP(64, 10, 64, 1, key=key)
    return algorithm, algorithm.init(model, num_clients=14)


def step(algorithm, state, cohort, key):
    return algorithm.round(state, cohort, key=key)


def together(rates, keys, cohorts):
    """All trainings side by side: the leading axis is the training."""
    algorithm, state = eqx.filter_jit(eqx.filter_vmap(start))(rates, keys)
    axes = (eqx.if_array(0), eqx.if_array(0), None, 0)
    all_step = eqx.filter_jit(eqx.filter_vmap(step, in_axes=axes))
    losses = []
    for cohort in cohorts:
        state, metrics = all_step(algorithm, state, cohort, keys)
        losses.append(metrics["loss"])
    return state.model, jnp.stack(losses, axis=1)


def one_by_one(rates, keys, cohorts):
    """The same trainings in a loop. The round is compiled once for all of them."""
    models, losses = [], []
    for rate, key in zip(rates, keys, strict=True):
        algorithm, state = start(rate, key)
        row = []
        for cohort in cohorts:
            state, metrics = step(algorithm, state, cohort, key)
            row.append(metrics["loss"])
        models.append(state.model)
        losses.append(jnp.stack(row))
    stacked = jax.tree.map(
        lambda *x: jnp.stack(x) if eqx.is_array(x[0]) else x[0], *models
    )
    return stacked, jnp.stack(losses)


def timed(f, *args):
    begin = time.perf_counter()
    out = jax.block_until_ready(eqx.filter(f(*args), eqx.is_array))
    return out, time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--output", default="sweep.png")
    args = parser.parse_args()

    grid = jnp.logspace(-2.5, 0.5, 8)
    rates = jnp.repeat(grid, 4)
    keys = jnp.tile(jr.split(jr.key(0), 4), 8)
    writers = eqf.data.digits()
    loader = eqf.data.Loader(writers, eqf.data.UniformSampler(7, seed=0), BATCHING)
    cohorts = [loader(number) for number in range(args.rounds)]

    (models, losses), seconds = timed(together, rates, keys, cohorts)
    (again, _), loop_seconds = timed(one_by_one, rates, keys, cohorts)
    # Long trainings amplify rounding: compare where training is stable.
    for a, b in zip(jax.tree.leaves(models), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a[:24], b[:24], rtol=1e-2, atol=1e-3)
    print(f"32 trainings of {args.rounds} rounds, compilation included:")
    print(f"  one vmapped program  {seconds:6.1f} s")
    print(f"  one after another    {loop_seconds:6.1f} s")

    final = np.asarray(losses[:, -1]).reshape(8, 4)
    print("client learning rate   training loss after the last round (4 seeds)")
    for rate, row in zip(grid, final, strict=True):
        print(f"{float(rate):20.4f}   mean {row.mean():6.3f}   max {row.max():6.3f}")
    print(f"the best of them: {best(grid, final):.4f}")
    plot(np.asarray(grid), final, args.output)


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
