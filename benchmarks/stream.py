"""Training on data that are larger than the memory that the process may use.

Writes parquet files sorted by client (images of 28x28 bytes and labels), opens them
with `datasets.load_dataset`, memory-mapped, and trains with 100 clients a round, whose
rows are read as each round needs them. Prints how much memory that took, and what part
of a round was lost waiting for input, from a cold and from a warm page cache. The
process may not allocate more than half of what the data take up (`RLIMIT_DATA`).

    python benchmarks/stream.py [--clients 100000] [--gigabytes 4] [--quick]

Needs twice the given space on disk at most, and removes what it wrote.
"""

import argparse
import functools
import glob
import os
import resource
import tempfile
import time

import datasets
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pyarrow as pa
import pyarrow.parquet as pq
from _report import input_times, memory, print_table, write_json

import equifed as eqf


PIXELS, CLASSES = 28 * 28, 10
ROW_GROUP, NUM_FILES = 20_000, 8
# What compiling and training take whatever the data: no limit is set below.
LEAST_BUDGET = 1e9


class CNN(eqx.Module):
    """Two small convolutions and a dense layer."""

    conv1: eqf.nn.Conv2d
    conv2: eqf.nn.Conv2d
    pool: eqf.nn.MaxPool2d
    dense: eqx.nn.Linear

    def __init__(self, key):
        keys = jr.split(key, 3)
        self.conv1 = eqf.nn.Conv2d(1, 8, 5, key=keys[0])
        self.conv2 = eqf.nn.Conv2d(8, 16, 5, key=keys[1])
        self.pool = eqf.nn.MaxPool2d(2)
        self.dense = eqx.nn.Linear(256, CLASSES, key=keys[2])

    def __call__(self, image):
        x = image.reshape(28, 28, 1).astype(jnp.float32) / 255
        x = jax.nn.relu(self.pool(self.conv1(x)))
        x = jax.nn.relu(self.pool(self.conv2(x)))
        return self.dense(x.reshape(-1))


def loss(model, example, key):
    return eqf.cross_entropy(model(example["image"]), example["label"])


def write_files(directory: str, num_clients: int, num_examples: int) -> list[str]:
    """Writes the clients in turn; no more than a row group is ever in memory.

    A class is a figure of strokes, an example its strokes in random greys: as in
    written digits most pixels are 0, so the files are smaller than the data.
    """
    rng = np.random.default_rng(0)
    sizes = rng.lognormal(0.0, 0.5, num_clients)
    sizes = np.maximum(1, (sizes * num_examples / sizes.sum()).astype(np.int64))
    figures = np.where(rng.random((CLASSES, PIXELS)) < 0.2, 255, 0).astype(np.uint8)
    paths = []
    for number, clients in enumerate(np.array_split(np.arange(num_clients), NUM_FILES)):
        paths.append(os.path.join(directory, f"part-{number:02d}.parquet"))
        owners, writer = np.repeat(clients, sizes[clients]), None
        for start in range(0, len(owners), ROW_GROUP):
            some = owners[start : start + ROW_GROUP]
            labels = rng.integers(0, CLASSES, len(some), dtype=np.uint8)
            grey = np.frombuffer(rng.bytes(len(some) * PIXELS), np.uint8)
            images = grey.reshape(-1, PIXELS) & figures[labels]
            table = pa.table(
                {
                    "client": [f"client{c:07d}" for c in some.tolist()],
                    "image": pa.FixedSizeListArray.from_arrays(
                        pa.array(images.reshape(-1)), PIXELS
                    ),
                    "label": labels,
                }
            )
            if writer is None:
                writer = pq.ParquetWriter(paths[-1], table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()
    return paths


def resident() -> dict[str, float]:
    return {k: v for k, v in memory().items() if k.startswith("Rss")}


def forget(paths: list[str]) -> None:
    """Drops files from the page cache, but for pages that are mapped just now."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(paths: list[str]) -> None:
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(2**24):
                pass


def run(directory: str, args) -> dict:
    stages, gigabytes = [], args.gigabytes

    def stage(name, begin):
        seconds = time.perf_counter() - begin
        row = {"stage": name, "seconds": seconds, **resident()}
        stages.append(row | {"GB_per_s": gigabytes / seconds})

    begin = time.perf_counter()
    files = write_files(directory, args.clients, int(gigabytes * 1e9 / (PIXELS + 1)))
    stage("write parquet", begin)

    def open_rows():
        return datasets.load_dataset(
            "parquet",
            data_files=files,
            split="train",
            cache_dir=os.path.join(directory, "cache"),
        )

    begin = time.perf_counter()
    datasets.disable_progress_bars()
    rows = open_rows()
    stage("load_dataset", begin)

    begin = time.perf_counter()
    dataset = eqf.data.FederatedDataset.from_huggingface(rows, by="client")
    stage("from_huggingface", begin)
    print(dataset)
    size = dataset.nbytes / 2**20
    del rows, dataset

    arrow = glob.glob(os.path.join(directory, "cache", "**", "*.arrow"), recursive=True)
    batching = eqf.data.Epochs(1, batch_size=20)
    algorithm = eqf.FedAvg(loss, optax.sgd(0.05), batching)
    sampler = eqf.data.UniformSampler(min(100, args.clients // 10), seed=0)

    def open_loader(prepare_cache):
        # Opened anew: pages that are mapped cannot be dropped from the cache.
        rows = open_rows()
        dataset = eqf.data.FederatedDataset.from_huggingface(rows, by="client")
        prepare_cache(arrow)
        return eqf.data.Loader(dataset, sampler, batching, resident=False)

    runs = []
    for cache, prepare in (("cold", forget), ("warm", read_through)):
        open_this = functools.partial(open_loader, prepare)
        model = CNN(jr.key(0))
        figures = input_times(algorithm, model, open_this, args.rounds, repeats=3)
        runs.append({"cache": cache} | figures | resident())
    return {
        "stages": stages,
        "runs": runs,
        "data_MB": size,
        "files_MB": sum(map(os.path.getsize, files + arrow)) / 2**20,
        "peak_own_MB": max(row["RssAnon"] for row in stages + runs),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--directory", help="where to write; the default is temporary")
    parser.add_argument("--output", default="stream.json")
    parser.add_argument("--quick", action="store_true", help="a small try-out")
    args = parser.parse_args()
    if args.quick:
        args.clients, args.gigabytes, args.rounds = 4000, 0.16, 4

    # Half of the data, beyond what is reserved by now (most of it never touched).
    budget = args.gigabytes * 1e9 / 2
    limited = budget >= LEAST_BUDGET
    if limited:
        limit = int(memory()["VmData"] * 2**20 + budget)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        results = run(directory, args)
    print_table("Preparation", results["stages"])
    print_table("Training (MB of memory: own, and mapped from files)", results["runs"])
    print(
        f"\n{results['data_MB']:,.0f} MB of data, at most "
        f"{results['peak_own_MB']:,.0f} MB of memory of the process's own, "
        + (f"{budget / 2**20:,.0f} MB allowed" if limited else "no limit was set")
    )
    results["budget_MB"] = budget / 2**20 if limited else None
    write_json(args.output, results)


if __name__ == "__main__":
    main()
