"""How the time and the memory of a round grow.

With the cohort, the population, the number of parameters and the number of devices;
and the memory with the cohort and with `Executor(block_size=...)`. Rounds are blocked
on, those that compile are left out, and every figure is a median.

    python benchmarks/scaling.py [--quick] [--only cohort,memory] [--output DIR]

Writes `scaling.json` and `scaling.png`. Processes of their own (`--point`) measure what
needs one: the number of devices is set once, and the peak of the memory only grows.
"""

import argparse
import functools
import hashlib
import json
import os
import subprocess
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _report import (
    input_times,
    memory,
    plot,
    print_table,
    round_times,
    stepper,
    write_json,
)

import equifed as eqf
from equifed._round.step import round_step


PIXELS, CLASSES, BATCH = 784, 62, 20
POPULATIONS = (1000, 10_000, 100_000, 1_000_000)
BATCHING = eqf.data.Epochs(1, batch_size=BATCH)


class Perceptron(eqx.Module):
    """Dense layers on the first pixels of an image."""

    layers: list[eqx.nn.Linear]

    def __init__(self, *widths, key, inputs=PIXELS, classes=CLASSES):
        sizes = (inputs, *widths, classes)
        keys = jr.split(key, len(widths) + 1)
        self.layers = [
            eqx.nn.Linear(a, b, key=k)
            for a, b, k in zip(sizes[:-1], sizes[1:], keys, strict=True)
        ]

    def __call__(self, image):
        x = image[: self.layers[0].in_features].astype(jnp.float32) / 255
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


def loss(model, example, key):
    return eqf.cross_entropy(model(example["image"]), example["label"])


def fedavg(aggregator=None):
    return eqf.FedAvg(loss, optax.sgd(0.05), BATCHING, aggregator=aggregator)


def num_params(model) -> int:
    return sum(x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_array)))


def population(sizes, *, repeated: bool = False) -> eqf.data.FederatedDataset:
    """Random images; or one image, repeated without taking memory."""
    rng, total = np.random.default_rng(0), int(np.sum(sizes))
    if repeated:
        image = np.frombuffer(rng.bytes(PIXELS), np.uint8)
        images = np.broadcast_to(image, (total, PIXELS))
        labels = np.broadcast_to(np.int32(1), (total,))
    else:
        images = np.frombuffer(rng.bytes(total * PIXELS), np.uint8)
        images = images.reshape(total, PIXELS)
        labels = rng.integers(0, CLASSES, total, dtype=np.int32)
    return eqf.data.FederatedDataset(
        {"image": images, "label": labels},
        np.append(0, np.cumsum(sizes)),
        [f"client{i}" for i in range(len(sizes))],
    )


def lognormal_sizes(num_clients: int, mean: float) -> np.ndarray:
    sizes = np.random.default_rng(1).lognormal(-0.1, 0.45, num_clients)
    return np.maximum(1, (mean * sizes).astype(np.int64))


def uniform(dataset, cohort_size, **options) -> eqf.data.Loader:
    sampler = eqf.data.UniformSampler(cohort_size, seed=0)
    return eqf.data.Loader(dataset, sampler, BATCHING, **options)


def by_cohort(quick: bool) -> list[dict]:
    """Cohorts of a fixed population, resident and read round by round."""
    dataset = population(lognormal_sizes(340 if quick else 3400, 200))
    model, rows = Perceptron(200, 200, key=jr.key(0)), []
    for cohort_size, rounds in ((10, 16), (100, 8), (1000, 4)):
        if quick and cohort_size > 100:
            continue
        for resident in (True, False):
            loader = uniform(dataset, cohort_size, resident=resident)
            rounds = 4 if quick else rounds
            figures = input_times(
                fedavg(), model, lambda f=loader: f, rounds, 1 if quick else 3
            )
            rows.append({"cohort": cohort_size, "resident": resident} | figures)
    return rows


def by_population(quick: bool) -> list[dict]:
    """Populations of any size, 100 clients a round; the data take no memory."""
    model, rows = Perceptron(200, key=jr.key(0)), []
    for num_clients in POPULATIONS[: 2 if quick else 4]:
        sizes = lognormal_sizes(num_clients, 40)
        begin = time.perf_counter()
        dataset = population(sizes, repeated=True)
        row = {"population": num_clients, "build_s": time.perf_counter() - begin}
        row["index_MB"] = (
            sum(map(sys.getsizeof, dataset.client_ids)) + 16 * num_clients
        ) / 2**20
        loader = uniform(dataset, 100, resident=False)
        figures = input_times(fedavg(), model, lambda f=loader: f, 6, 1 if quick else 3)
        rows.append(row | figures | {"own_MB": memory()["RssAnon"]})
    return rows


def by_states(quick: bool) -> list[dict]:
    """SCAFFOLD keeps the parameters once for each client of the population."""
    # The model is small so that its million copies fit.
    model, rows = Perceptron(key=jr.key(0), inputs=16, classes=2), []
    for num_clients in POPULATIONS[: 2 if quick else 4]:
        dataset = population(lognormal_sizes(num_clients, 40), repeated=True)
        loader = uniform(dataset, 100, resident=False)
        cohorts = [loader(r) for r in range(8)]
        row = {"population": num_clients, "params": num_params(model)}
        row["states_MB"] = 4 * row["params"] * num_clients / 2**20
        for name, algorithm in (
            ("fedavg_ms", fedavg()),
            ("scaffold_ms", eqf.Scaffold(loss, optax.sgd(0.05), BATCHING)),
        ):
            step = stepper(algorithm, model, loader)
            round_times(step, cohorts)
            row[name] = 1e3 * float(np.median(round_times(step, cohorts)))
        rows.append(row)
    return rows


def by_params(quick: bool) -> list[dict]:
    """The same steps by models of growing size, against a bare loop of steps."""
    models = [(), (128,), (784, 512), (2600, 2600)]
    rows, dataset = [], population(np.full(100, 5 * BATCH))
    for widths in models[: 3 if quick else 4]:
        model = Perceptron(*widths, key=jr.key(0))
        loader = uniform(dataset, 10)
        cohort = loader(0)
        federated = stepper(fedavg(), model, loader)
        params = jax.tree.map(jnp.copy, eqx.filter(model, eqx.is_inexact_array))
        num_steps = int(cohort.stop.max())
        times = {"round": [], "bare": []}
        for _ in range(4 if quick else 8):
            begin = time.perf_counter()
            jax.block_until_ready(federated(cohort))
            times["round"].append(time.perf_counter() - begin)
            begin = time.perf_counter()
            params = jax.block_until_ready(bare_steps((cohort, num_steps), params))
            times["bare"].append(time.perf_counter() - begin)
        whole, bare = (1e3 * float(np.median(t[1:])) for t in times.values())
        row = {"params": num_params(model), "clients": 10, "steps": num_steps}
        row |= {"round_ms": whole, "bare_ms": bare, "ratio": whole / bare}
        # One copy reads and writes every parameter: the unit to count overhead in.
        flat = jnp.zeros(row["params"])
        copies = [_seconds(lambda x=flat: x + 1) for _ in range(20)]
        row["copy_ms"] = 1e3 * float(np.median(copies))
        row["copies_per_client"] = (whole - bare) / 10 / row["copy_ms"]
        rows.append(row)
    return rows


@eqx.filter_jit(donate="all-except-first")
def bare_steps(work, params):
    """The same batches and the same update, of one model and without clients."""
    cohort, num_steps = work

    def step(i, params):
        batch = jax.tree.map(lambda x: x[0, cohort.order[0, i]], cohort.examples)

        def mean_loss(params):
            return jax.vmap(lambda e: loss(params, e, None))(batch).mean()

        grads = jax.grad(mean_loss)(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)

    return jax.lax.fori_loop(0, num_steps, step, params)


def _seconds(f) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(f())
    return time.perf_counter() - begin


def by_devices(quick: bool) -> list[dict]:
    """The same rounds on 1, 2 and 4 host devices; `bits` is a hash of the params."""
    rows = []
    for ordered in (False, True):
        for devices in (1, 2) if quick else (1, 2, 4):
            row = {"devices": devices, "ordered": ordered}
            rows.append(row | in_process("devices_point", quick=quick, **row))
            first = next(r for r in rows if r["ordered"] == ordered)
            rows[-1]["speed_up"] = first["round_ms"] / rows[-1]["round_ms"]
    return rows


def devices_point(devices: int, ordered: bool, quick: bool) -> dict:
    jax.config.update("jax_num_cpu_devices", devices)
    mesh = jax.make_mesh((devices,), ("clients",)) if devices > 1 else None
    dataset = population(lognormal_sizes(200, 100 if quick else 200))
    loader = uniform(dataset, 100, mesh=mesh)
    executor = eqf.Executor(ordered=ordered)
    step = stepper(
        fedavg(), Perceptron(200, 200, key=jr.key(0)), loader, executor=executor
    )
    cohorts = [loader(r) for r in range(4)]
    round_times(step, cohorts)
    times = round_times(step, cohorts)
    state, _ = step(cohorts[0])
    leaves = [
        np.asarray(x) for x in jax.tree.leaves(eqx.filter(state.model, eqx.is_array))
    ]
    digest = hashlib.sha256(b"".join(x.tobytes() for x in leaves)).hexdigest()
    norm = float(np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in leaves)))
    return {
        "round_ms": 1e3 * float(np.median(times)),
        "norm": f"{norm:.7f}",
        "bits": digest[:8],
    }


def by_memory(quick: bool) -> list[dict]:
    """What a round takes beyond its data, in models: as the compiler plans it, and as
    the process grows compared with one that trains a tiny model."""
    points = [(10, 1, "mean"), (100, 1, "mean"), (1000, 1, "mean")]
    points += [(100, 4, "mean"), (100, 16, "mean"), (100, 64, "mean")]
    points += [(100, 1, "ordered"), (100, 1, "median")]
    rows = []
    for cohort, block, kind in points[:2] if quick else points:
        row = {"cohort": cohort, "block": block, "kind": kind}
        big = in_process("memory_point", width=1000, **row)
        tiny = in_process("memory_point", width=1, **row)
        model = big["model_MB"]
        row |= {"model_MB": model, "temp_MB": big["temp_MB"]}
        row["grown_MB"] = big["peak_MB"] - tiny["peak_MB"]
        row["temp_models"] = big["temp_MB"] / model
        row["grown_models"] = row["grown_MB"] / model
        row["temp_per_block"] = row["temp_models"] / block
        rows.append(row)
    return rows


def memory_point(cohort: int, block: int, kind: str, width: int) -> dict:
    model = Perceptron(width, width, key=jr.key(0))
    loader = uniform(population(np.full(max(cohort, 100), BATCH)), cohort)
    executor = eqf.Executor(block_size=block, ordered=kind == "ordered")
    algorithm = fedavg(eqf.Median() if kind == "median" else None)
    made = loader(0)
    state = algorithm.init(model, num_clients=loader.num_clients)
    arrays, static = eqx.partition(state, eqx.is_array)

    @functools.partial(jax.jit, donate_argnums=0)
    def run(arrays, cohort):
        old = eqx.combine(arrays, static)
        new, metrics = round_step(algorithm, old, cohort, jr.key(0), executor)
        return eqx.filter(new, eqx.is_array), metrics

    compiled = run.lower(arrays, made).compile()
    jax.block_until_ready(compiled(arrays, made))
    return {
        "model_MB": 4 * num_params(model) / 2**20,
        "temp_MB": compiled.memory_analysis().temp_size_in_bytes / 2**20,
        "peak_MB": memory()["VmHWM"],
    }


def in_process(point: str, **options) -> dict:
    command = [sys.executable, os.path.abspath(__file__), "--point"]
    command.append(json.dumps([point, options]))
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(out.stdout.splitlines()[-1])


POINTS = {"devices_point": devices_point, "memory_point": memory_point}
SECTIONS = {
    "cohort": ("us_per_step", "cohort", "us_per_step,cohort_ms,device_ms", by_cohort),
    "population": (
        "round and input",
        "population",
        "device_ms,cohort_ms",
        by_population,
    ),
    "states": ("a state per client", "population", "scaffold_ms,fedavg_ms", by_states),
    "params": ("parameters", "params", "round_ms,bare_ms", by_params),
    "devices": ("devices", "devices", "round_ms", by_devices),
    "memory": ("memory", "block", "temp_MB,grown_MB", by_memory),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small try-out")
    parser.add_argument("--only", default=",".join(SECTIONS), help="some sections")
    parser.add_argument("--output", default=".", help="a directory")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point is not None:
        point, options = json.loads(args.point)
        print(json.dumps(POINTS[point](**options)))
        return
    results, panels = {}, []
    for name in args.only.split(","):
        title, x, ys, section = SECTIONS[name]
        results[name] = section(args.quick)
        print_table(section.__doc__.split("\n\n")[0], results[name])
        panels.append((title, x, ys, results[name]))
    write_json(os.path.join(args.output, "scaling.json"), results)
    plot(os.path.join(args.output, "scaling.png"), panels)


if __name__ == "__main__":
    main()
