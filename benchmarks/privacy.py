"""What privacy costs: rounds of each mechanism beside FedAvg's, on one model.

All train the CNN of `overhead.py` on the same clients, in the same plan of steps; the
rounds alternate, and the median of the ratios to FedAvg's round of the same turn is
printed. What the aggregator keeps between rounds is counted beside it.

    python benchmarks/privacy.py [--repeats 20] [--output privacy.json]
"""

import argparse
import statistics
import time

import jax
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
from _report import machine, print_table, write_json
from overhead import CNN, loss, mnist_like

import equifed as eqf
import equifed.privacy as eqp
from equifed._stepper.stepper import Stepper


SGD = optax.sgd(0.1)
ROUNDS = 200


def mechanisms(num_clients):
    """The aggregators by their names."""

    def mean(clipping, noise):
        return eqp.PrivateMean(
            clipping,
            noise_multiplier=1.0,
            expected_clients=float(num_clients),
            noise=noise,
        )

    flat, alone = eqp.FlatClip(1.0), eqp.IndependentNoise()
    adaptive = eqp.AdaptiveClip(1.0, indicator_stddev=1.0)
    buffered = eqp.BufferedToeplitzNoise(3, ROUNDS, min_separation=ROUNDS)
    return {
        "FedAvg": None,
        "flat clipping, Gaussian": mean(flat, alone),
        "by groups, Gaussian": mean(eqp.GroupClip(1.0), alone),
        "adaptive clipping, Gaussian": mean(adaptive, alone),
        "flat clipping, tree": mean(flat, eqp.TreeNoise()),
        "flat clipping, 8 bands": mean(flat, eqp.BandedNoise(8, ROUNDS)),
        "flat clipping, 3 buffers": mean(flat, buffered),
    }


def alternate(steps, repeats):
    """The times of each, in turns, after two to warm up."""
    times = {name: [] for name in steps}
    for repeat in range(repeats + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step())
            if repeat >= 2:
                times[name].append(time.perf_counter() - start)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", default="privacy.json")
    args = parser.parse_args()
    batching = eqf.data.Epochs(1, batch_size=20)
    loader = eqf.data.Loader(mnist_like(), eqf.data.AllClients(), batching)
    model, cohort = CNN(jr.key(0)), loader(0)
    steps, kept = {}, {}
    for name, mechanism in mechanisms(loader.num_clients).items():
        algorithm = eqf.FedAvg(loss, SGD, batching, aggregator=mechanism)
        state = algorithm.init(model, num_clients=loader.num_clients)
        leaves = jtu.tree_leaves(state.aggregator)
        kept[name] = sum(x.nbytes for x in leaves) / 1e3
        step = Stepper(
            algorithm, state, key=jr.key(0), executor=eqf.Executor(), mesh=None
        )
        steps[name] = lambda step=step: step(cohort)
    times = alternate(steps, args.repeats)
    base = np.asarray(times["FedAvg"])
    rows = [
        {
            "aggregator": name,
            "round_ms": 1e3 * statistics.median(times[name]),
            "ratio": float(np.median(np.asarray(times[name]) / base)),
            "kept_kB": kept[name],
        }
        for name in steps
    ]
    size = sum(x.size for x in jtu.tree_leaves(model) if hasattr(x, "size"))
    print_table(f"Rounds of {loader.num_clients} clients, {size} numbers each", rows)
    write_json(args.output, {"machine": machine(), "numbers": size, "rows": rows})


if __name__ == "__main__":
    main()
