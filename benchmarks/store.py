"""What it costs to keep clients' states elsewhere than on the device.

SCAFFOLD, 2,000 clients who keep 200,000 numbers each, 20 of them in a round, each of
whom takes one step: so little is measured but the moving of what they keep. Each place
is a process of its own, for its peak of memory. Prints the time of a round (the lower
quartile, and the faster of two processes, as others may use the machine), that peak,
what a checkpoint takes after ten more rounds, and all as ratios against the device.
And of states that are spread over a mesh, what it takes to bring a round's rows to
their slots and to put them back, as the loader deals the clients and in any order.

    python benchmarks/store.py [--rounds 40] [--large] [--folder DIR] [--output FILE]

With `--large` also 100,000 clients who keep 1 MB each, and a million who keep 50 kB,
both in a folder: sparse files of 100 and 50 GB, of which a few GB are written.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _report import memory, print_table, write_json

import equifed as eqf
from equifed._store import moved, mover, store_of


# The size of the population, of what each client keeps, and of a cohort.
SMALL = (2_000, 200_000, 20)
LARGE = {"100,000 of 1 MB": (100_000, 250_000, 20)}
LARGE |= {"1,000,000 of 50 kB": (1_000_000, 12_500, 100)}
PLACES = ("device", "host", "folder")
MESH_PLACES = ("device", "sharded", "host")
DEVICES = 4


class Wide(eqx.Module):
    """A linear model of many numbers, all of which have a gradient."""

    weight: jax.Array

    def __init__(self, size: int):
        self.weight = jnp.zeros(size)


def loss(model, example, key):
    wanted = jnp.sum(model.weight[:4] * example["x"]) - example["y"]
    return wanted**2 + jnp.mean((model.weight - 1) ** 2)


def population(num_clients: int) -> eqf.data.FederatedDataset:
    """One example for each client."""
    rng = np.random.default_rng(0)
    columns = {
        "x": rng.normal(size=(num_clients, 4)).astype(np.float32),
        "y": rng.normal(size=num_clients).astype(np.float32),
    }
    return eqf.data.FederatedDataset.from_arrays(columns, np.arange(num_clients))


def on_disk(folder: str) -> float:
    """What lies in a folder, in MB: of sparse files what was written."""
    files = [x.stat() for x in pathlib.Path(folder).rglob("*") if x.is_file()]
    return sum({x.st_ino: x.st_blocks * 512 for x in files}.values()) / 1e6


def measured(place: str, sizes: tuple[int, int, int], args, folder: str) -> dict:
    """One place, in this process."""
    num_clients, numbers, count = sizes
    mesh = jax.make_mesh((DEVICES,), ("clients",)) if args.mesh else None
    algorithm = eqf.Scaffold(loss, optax.sgd(0.1), eqf.data.Epochs(1, batch_size=1))
    sampler = eqf.data.UniformSampler(count, seed=0)
    dataset = population(num_clients)
    loader = eqf.data.Loader(dataset, sampler, algorithm.batching, mesh=mesh)
    where = os.path.join(folder, "states") if place == "folder" else place
    at_first = where if place in ("host", "folder") else "device"
    state = algorithm.init(
        Wide(numbers), num_clients=num_clients, client_states=at_first
    )
    saves = eqf.Checkpointer(os.path.join(folder, "run"), keep=1)
    times, saving, before, peak = [], [], None, 0.0
    parts = {"num_rounds": args.rounds, "key": jr.key(0), "client_states": where}
    begun = [state]
    del state
    for state, metrics in eqf.rounds(algorithm, begun.pop(), loader, **parts):
        jax.block_until_ready(metrics)
        jax.block_until_ready(jax.tree.leaves(state.clients))
        now, number = time.perf_counter(), int(state.round)
        if before is not None and number > 3:
            times.append(now - before)
        if number == args.rounds - 10:
            peak = memory()["VmHWM"]  # Without what saving takes.
        if number in (args.rounds - 10, args.rounds):
            begin = time.perf_counter()
            saves.save(number, state, [])
            saving.append(time.perf_counter() - begin)
        before = time.perf_counter()
    store = os.path.join(folder, "states")
    return {
        "round_ms": 1e3 * statistics.quantiles(times)[0],
        "peak_MB": peak,
        "save_s": saving[-1],
        "disk_MB": on_disk(store),
    }


def moving(sizes: tuple[int, int, int], args) -> dict:
    """The rows of a round brought and put back, by how the clients were dealt."""
    num_clients, numbers, count = sizes
    mesh = jax.make_mesh((DEVICES,), ("clients",))
    algorithm = eqf.Scaffold(loss, optax.sgd(0.1), eqf.data.Epochs(1, batch_size=1))
    sampler = eqf.data.UniformSampler(count, seed=0)
    loader = eqf.data.Loader(
        population(num_clients), sampler, algorithm.batching, mesh=mesh
    )
    state = algorithm.init(Wide(numbers), num_clients=num_clients)
    states = moved(state.clients, "sharded", loader.mesh, owned=True)
    del state
    each, accept = mover(states, loader.mesh), jnp.array(True)
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {"dealt": [], "any": []}
    for round in range(args.rounds):
        index = np.asarray(loader(round).index)
        mixed = rng.permutation(index.reshape(-1)).reshape(index.shape)
        for name, slots in (("dealt", index), ("any", mixed)):
            begin = time.perf_counter()
            rows = jax.block_until_ready(each.take(slots))
            each.put(slots, rows, accept)
            jax.block_until_ready(store_of(states).place.arrays)
            times[name].append(1e3 * (time.perf_counter() - begin))
    found = {f"{name}_ms": statistics.median(x[3:]) for name, x in times.items()}
    return {"a round": count, **found, "ratio": found["any_ms"] / found["dealt_ms"]}


def in_a_process(place: str, sizes, args, *more: str) -> dict:
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        command = [sys.executable, __file__, "--place", place, "--at", folder]
        command += ["--sizes", json.dumps(sizes), "--rounds", str(args.rounds), *more]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compared(places: tuple[str, ...], args, *more: str) -> list[dict]:
    """The places beside the first one."""
    found: dict[str, list[dict]] = {place: [] for place in places}
    for _ in range(args.repeats):  # They take turns.
        for place, runs in found.items():
            runs.append(in_a_process(place, SMALL, args, *more))
    rows: list[dict] = []
    for place, runs in found.items():
        row = {name: min(run[name] for run in runs) for name in runs[0]}
        first = rows[0] if rows else row
        ratios = ("round_ms", "peak_MB", "save_s")
        ratio = {f"{x.split('_')[0]}_ratio": row[x] / first[x] for x in ratios}
        rows.append({"place": place, **row, **ratio})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--folder", help="where the files lie; a temporary one")
    parser.add_argument("--output", default="runs/benchmarks/store.json")
    for name in ("--place", "--at", "--sizes"):  # For the processes.
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--mesh", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.place:
        if args.mesh:
            jax.config.update("jax_num_cpu_devices", DEVICES)
        sizes = json.loads(args.sizes)
        if args.place == "moving":
            print(json.dumps(moving(sizes, args)))
        else:
            print(json.dumps(measured(args.place, sizes, args, args.at)))
        return
    results = {"small": compared(PLACES, args)}
    print_table("2,000 clients who keep 200,000 numbers, 20 a round", results["small"])
    results["mesh"] = compared(MESH_PLACES, args, "--mesh")
    print_table(f"The same on a mesh of {DEVICES} devices", results["mesh"])
    results["moving"] = [
        in_a_process("moving", (*SMALL[:2], count), args, "--mesh")
        for count in (SMALL[2], 4 * SMALL[2])
    ]
    print_table("Rows brought and put back, spread over it", results["moving"])
    if args.large:
        results["large"] = [
            {"clients": name, **in_a_process("folder", sizes, args)}
            for name, sizes in LARGE.items()
        ]
        print_table("In a folder", results["large"])
    write_json(args.output, results)


if __name__ == "__main__":
    main()
