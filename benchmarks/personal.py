"""What personal models cost: rounds of their methods beside FedAvg's, on one model.

All train the same perceptron on the same clients, in the same plan of steps (FedRep and
FedAlt part it); the rounds alternate, and the ratio of medians to FedAvg's is printed.
What each client keeps is counted beside it, and what travels in a round.

    python benchmarks/personal.py [--repeats 40] [--output personal.json]
"""

import argparse
import statistics
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import optax
from _report import print_table, write_json
from overhead import loss, mnist_like

import equifed as eqf
from equifed._stepper.stepper import Stepper


SGD = optax.sgd(0.1)


class Perceptron(eqx.Module):
    """784 - 200 - 10, on images of 28 x 28."""

    mlp: eqx.nn.MLP

    def __init__(self, key):
        self.mlp = eqx.nn.MLP(784, 10, 200, 1, key=key)

    def __call__(self, image):
        return self.mlp(image.reshape(-1).astype(jnp.float32) / 255)


def methods(batching):
    """The algorithms, and which of them have a personal head."""
    parts = (loss, SGD, batching)
    whole = {
        "FedAvg": eqf.FedAvg(*parts),
        "Ditto": eqf.Ditto(*parts, lam=0.1),
        "APFL": eqf.APFL(*parts, alpha_learning_rate=0.1),
        "LocalOnly": eqf.LocalOnly(*parts),
    }
    headed = {
        "FedPer": eqf.FedPer(*parts),
        "FedAlt": eqf.FedAlt(*parts),
        "FedRep": eqf.FedRep(*parts),
    }
    return whole, headed


def steppers(batching, dataset):
    model = Perceptron(jr.key(0))
    roles = eqf.roles(model, personal=lambda m: m.mlp.layers[-1])
    loader = eqf.data.Loader(dataset, eqf.data.AllClients(), batching)
    whole, headed = methods(batching)
    for name, algorithm in {**whole, **headed}.items():
        given = roles if name in headed else None
        count = loader.num_clients
        state = algorithm.init(model, num_clients=count, roles=given)
        kept = sum(x.nbytes for x in jtu.tree_leaves(state.clients)) / count
        step = Stepper(
            algorithm, state, key=jr.key(0), executor=eqf.Executor(), mesh=None
        )
        yield name, step, loader(0), kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--output", default="personal.json")
    args = parser.parse_args()
    batching = eqf.data.Epochs(2, batch_size=20)
    found = list(steppers(batching, mnist_like()))
    times: dict[str, list[float]] = {name: [] for name, *_ in found}
    sent = {}
    for repeat in range(args.repeats + 2):
        for name, step, cohort, _ in found:
            start = time.perf_counter()
            _, metrics = jax.block_until_ready(step(cohort))
            if repeat >= 2:
                times[name].append(time.perf_counter() - start)
            sent[name] = int(metrics["bits_up"]), int(metrics["bits_down"])
    base = statistics.median(times["FedAvg"])
    rows = [
        {
            "method": name,
            "round_ms": 1e3 * statistics.median(times[name]),
            "ratio": statistics.median(times[name]) / base,
            "kept_kB": kept / 1e3,
            "up_MB": sent[name][0] / 8e6,
            "down_MB": sent[name][1] / 8e6,
        }
        for name, _, _, kept in found
    ]
    print_table("Rounds of 20 clients, beside FedAvg's", rows)
    write_json(args.output, {"rows": rows})


if __name__ == "__main__":
    main()
