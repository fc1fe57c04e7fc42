"""What a federated round costs beyond its SGD steps.

The same number of steps, on the same batches, by the same model and the same update,
as one bare compiled loop on one model: no clients, no aggregation, no metrics. The
two alternate, and the ratio of their medians is printed.

    python benchmarks/overhead.py [--repeats 15] [--output overhead.json]
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf
from equifed._stepper.stepper import Stepper


class MLP(eqx.Module):
    """A perceptron with one hidden layer on 8x8 digits."""

    mlp: eqx.nn.MLP

    def __init__(self, key):
        self.mlp = eqx.nn.MLP(64, 10, 64, 1, key=key)

    def __call__(self, image):
        return self.mlp(image.reshape(-1).astype(jnp.float32) / 16)


class SmallCNN(eqx.Module):
    """The network of `examples/quickstart.py`."""

    conv1: eqf.nn.Conv2d
    conv2: eqf.nn.Conv2d
    pool: eqf.nn.MaxPool2d
    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear

    def __init__(self, key):
        keys = jr.split(key, 4)
        self.conv1 = eqf.nn.Conv2d(1, 16, 3, padding=1, key=keys[0])
        self.conv2 = eqf.nn.Conv2d(16, 32, 3, padding=1, key=keys[1])
        self.pool = eqf.nn.MaxPool2d(2)
        self.dense1 = eqx.nn.Linear(512, 64, key=keys[2])
        self.dense2 = eqx.nn.Linear(64, 10, key=keys[3])

    def __call__(self, image):
        x = image[:, :, None].astype(jnp.float32) / 16
        x = jax.nn.relu(self.conv1(x))
        x = self.pool(jax.nn.relu(self.conv2(x)))
        return self.dense2(jax.nn.relu(self.dense1(x.reshape(-1))))


class CNN(eqx.Module):
    """Two convolutions and two dense layers on 28x28 images."""

    conv1: eqf.nn.Conv2d
    conv2: eqf.nn.Conv2d
    pool: eqf.nn.MaxPool2d
    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear

    def __init__(self, key):
        keys = jr.split(key, 4)
        self.conv1 = eqf.nn.Conv2d(1, 16, 5, key=keys[0])
        self.conv2 = eqf.nn.Conv2d(16, 32, 5, key=keys[1])
        self.pool = eqf.nn.MaxPool2d(2)
        self.dense1 = eqx.nn.Linear(512, 128, key=keys[2])
        self.dense2 = eqx.nn.Linear(128, 10, key=keys[3])

    def __call__(self, image):
        x = image.reshape(28, 28, 1).astype(jnp.float32) / 255
        x = jax.nn.relu(self.pool(self.conv1(x)))
        x = jax.nn.relu(self.pool(self.conv2(x)))
        return self.dense2(jax.nn.relu(self.dense1(x.reshape(-1))))


def loss(model, example, key):
    return eqf.cross_entropy(model(example["image"]), example["label"])


def mnist_like(num_clients: int = 20, seed: int = 0) -> eqf.data.FederatedDataset:
    """Random images with the shapes and client sizes of MNIST by writer."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(60, 160, num_clients)
    images = rng.integers(0, 256, (sizes.sum(), 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, sizes.sum(), dtype=np.int32)
    clients = np.repeat([f"client{i:03d}" for i in range(num_clients)], sizes)
    return eqf.data.FederatedDataset.from_arrays(
        {"image": images, "label": labels}, clients
    )


@functools.partial(jax.jit, static_argnums=(0,), donate_argnums=(1,))
def bare_steps(static, params, examples, order, rate):
    """The bare loop: gather a batch, differentiate its mean loss, step."""
    static = static.value

    def step(i, params):
        batch = jax.tree.map(lambda x: x[order[i]], examples)

        def mean_loss(params):
            model = eqx.combine(params, static)
            key = jr.key(0)
            return jax.vmap(lambda e: loss(model, e, key))(batch).mean()

        grads = jax.grad(mean_loss)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads)

    return jax.lax.fori_loop(0, order.shape[0], step, params)


class Static:
    """A hashable box for the static part of a model."""

    def __init__(self, value):
        self.value = value


def seconds(f: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(f())
    return time.perf_counter() - start


def measure(name, model, dataset, batch_size, repeats, kind=eqf.FedAvg) -> dict:
    batching = eqf.data.Epochs(1, batch_size=batch_size, last="fill")
    algorithm = kind(loss, optax.sgd(0.1), batching)
    loader = eqf.data.Loader(dataset, eqf.data.AllClients(), batching)
    cohort, key = loader(0), jr.key(0)
    executor = eqf.Executor()
    num_steps = int(np.max(np.asarray(cohort.stop)))
    order = jnp.maximum(cohort.order[0, :num_steps], 0)
    examples = jax.tree.map(lambda x: x[0], cohort.examples)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    box, rate = Static(static), jnp.asarray(0.1)

    state = algorithm.init(model, num_clients=loader.num_clients)
    step = Stepper(algorithm, state, key=key, executor=executor, mesh=None)
    params = jax.tree.map(jnp.copy, params)

    def federated():
        state, metrics = step(cohort)
        return state.model, metrics

    def bare():
        nonlocal params
        params = bare_steps(box, params, examples, order, rate)
        return params

    for f in (federated, bare, federated, bare):
        seconds(f)
    times = {"federated": [], "bare": []}
    for _ in range(repeats):
        times["federated"].append(seconds(federated))
        times["bare"].append(seconds(bare))
    medians = {k: statistics.median(v) for k, v in times.items()}
    return {
        "work": name,
        "clients": int(loader.num_clients),
        "steps": num_steps,
        "round_ms": 1e3 * medians["federated"],
        "bare_ms": 1e3 * medians["bare"],
        "ratio": medians["federated"] / medians["bare"],
        "rounds_per_s": 1 / medians["federated"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", default="overhead.json")
    args = parser.parse_args()
    key = jr.key(0)
    rows = [
        measure("digits MLP", MLP(key), eqf.data.digits(), 16, 5 * args.repeats),
        measure(
            *("digits MLP, SCAFFOLD", MLP(key), eqf.data.digits(), 16),
            *(5 * args.repeats, eqf.Scaffold),
        ),
        measure("digits CNN", SmallCNN(key), eqf.data.digits(), 8, 2 * args.repeats),
        measure("MNIST CNN", CNN(key), mnist_like(), 20, args.repeats),
    ]
    print(
        f"{'work':20} {'clients':>7} {'steps':>6} {'round':>10} {'bare':>10} ratio "
        "rounds/s"
    )
    for r in rows:
        print(
            f"{r['work']:20} {r['clients']:7} {r['steps']:6} "
            f"{r['round_ms']:7.2f} ms {r['bare_ms']:7.2f} ms {r['ratio']:5.2f} "
            f"{r['rounds_per_s']:8.1f}"
        )
    with open(args.output, "w") as file:
        json.dump({"device": str(jax.devices()[0]), "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
