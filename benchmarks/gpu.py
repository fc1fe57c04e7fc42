"""Training CNNs on whatever accelerator JAX sees: how fast, and how to run it best.

Two works: 3,400 clients with 28x28 images of 62 classes, 10 of them a round (the shapes
of EMNIST by writer), and 1,000 users with 50 images of 32x32x3 each, 50 of them a round
(those of CIFAR-10, IID). Images and labels are random: only speed is measured. Each is
run with several clients side by side or one at a time, by each way to convolve clients
side by side (`equifed.nn.Conv2d(lowering=...)`), with the arithmetic in float32 and in
bfloat16 (the parameters are float32 in both). FedJAX runs beside them if it can be
imported: the same data, cohorts and model, by its `jit` backend.

Some rounds are timed several times over, and the median is extrapolated to 1,500
rounds; with `--rounds 1500` all are run, once. The clock starts when the first round,
which is not counted, is done. The FLOP/s are those of the examples trained on, by the
shapes of the model's layers, so that padding counts as time and not as work. Their
share is of the card's peak for dense matrices where that is known (for float32 that of
TF32 where the card has it: JAX's default), else of the rate of a large matrix product,
measured.

    python benchmarks/gpu.py [--tiny] [--works cifar] [--blocks 8 16] [--minutes 20]
"""

import argparse
import collections
import dataclasses
import functools
import importlib.util
import itertools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf


DTYPES = {"bfloat16": jnp.bfloat16, "float32": jnp.float32}
LOWERINGS = ("grouped", "im2col", "one-by-one")
TOTAL_ROUNDS = 1500
LEARNING_RATE = 0.01

# TFLOP/s of dense matrices by the makers' data sheets: 16-bit, TF32, plain float32. The
# first name found in JAX's `device_kind` counts.
PEAKS = {
    "H100 PCIe": (756, 378, 51),
    "H100": (989, 494, 67),
    "H200": (989, 494, 67),
    "A100": (312, 156, 19.5),
    "L40S": (362, 183, 91.6),
    "L4": (121, 60, 30.3),
    "V100": (125, None, 15.7),
    "T4": (65, None, 8.1),
}


@dataclasses.dataclass(frozen=True)
class Work:
    """A population and its model.

    `spread` is the standard deviation of the logarithm of the clients' sizes.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    num_clients: int
    mean_examples: int
    spread: float
    cohort_size: int
    batch_size: int

    def dataset(self) -> eqf.data.FederatedDataset:
        rng = np.random.default_rng(0)
        mean = math.log(self.mean_examples) - self.spread**2 / 2
        sizes = rng.lognormal(mean, self.spread, self.num_clients) / self.batch_size
        # Whole batches, since libraries differ in what they make of a short one.
        sizes = np.maximum(1, np.rint(sizes)).astype(int) * self.batch_size
        columns = {
            "image": rng.integers(0, 256, (sizes.sum(), *self.image_shape), np.uint8),
            "label": rng.integers(0, self.num_classes, sizes.sum(), np.int32),
        }
        names = np.repeat([f"client{i:05d}" for i in range(self.num_clients)], sizes)
        return eqf.data.FederatedDataset.from_arrays(columns, names)

    def tiny(self) -> "Work":
        return dataclasses.replace(
            self,
            image_shape=(12, 12, self.image_shape[2]),
            num_clients=8,
            mean_examples=self.batch_size,
            cohort_size=2,
        )

    @property
    def num_features(self) -> int:
        """The size of an image after both convolutions and the pooling."""
        height, width, _ = self.image_shape
        return (height - 4) // 2 * ((width - 4) // 2) * 64

    @property
    def flops_per_example(self) -> int:
        """Of a step: the value, and the gradients of parameters and hidden layers."""
        height, width, channels = self.image_shape
        first = (height - 2) * (width - 2) * 9 * channels * 32
        second = (height - 4) * (width - 4) * 9 * 32 * 64
        dense = self.num_features * 128 + 128 * self.num_classes
        return 2 * (2 * first + 3 * (second + dense))


WORKS = {
    "emnist": Work("emnist", (28, 28, 1), 62, 3400, 200, 0.4, 10, 20),
    "cifar": Work("cifar", (32, 32, 3), 10, 1000, 50, 0.0, 50, 10),
}


class CNN(eqx.Module):
    """Two convolutions, a pooling and two dense layers."""

    conv1: eqf.nn.Conv2d
    conv2: eqf.nn.Conv2d
    pool: eqf.nn.MaxPool2d
    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear

    def __init__(self, work: Work, lowering: str, key):
        keys = jr.split(key, 4)
        conv = functools.partial(eqf.nn.Conv2d, lowering=lowering)
        self.conv1 = conv(work.image_shape[2], 32, 3, key=keys[0])
        self.conv2 = conv(32, 64, 3, key=keys[1])
        self.pool = eqf.nn.MaxPool2d(2)
        self.dense1 = eqx.nn.Linear(work.num_features, 128, key=keys[2])
        self.dense2 = eqx.nn.Linear(128, work.num_classes, key=keys[3])

    def __call__(self, x):
        x = jax.nn.relu(self.conv1(x))
        x = self.pool(jax.nn.relu(self.conv2(x)))
        return self.dense2(jax.nn.relu(self.dense1(x.reshape(-1))))


def loss_in(dtype) -> Callable:
    """The loss, computed in a dtype but for its last lines."""

    def loss(model, example, key):
        model = jax.tree.map(
            lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, model
        )
        logits = model(example["image"].astype(dtype) / 255)
        return eqf.cross_entropy(logits.astype(jnp.float32), example["label"])

    return loss


LOSSES = {name: loss_in(dtype) for name, dtype in DTYPES.items()}


def time_rounds(rounds: Callable[[int], Iterator], num_rounds: int, repeats: int):
    """Seconds until the first pass is done, and seconds a round, pass by pass.

    `rounds(n)` starts afresh and yields something of each round, not waited for.
    """

    def run(num_rounds: int) -> float:
        iterator = rounds(num_rounds + 1)
        jax.block_until_ready(next(iterator))
        start = time.perf_counter()
        jax.block_until_ready(collections.deque(iterator, maxlen=1)[0])
        return (time.perf_counter() - start) / num_rounds

    start = time.perf_counter()
    run(min(num_rounds, 20))  # Compiles; the same rounds have the same shapes.
    compiling = time.perf_counter() - start
    return compiling, [run(num_rounds) for _ in range(repeats)]


def equifed_rounds(work, loader, lowering, block_size, dtype) -> Callable:
    algorithm = eqf.FedAvg(LOSSES[dtype], optax.sgd(LEARNING_RATE), loader.batching)
    model = CNN(work, lowering, jr.key(0))
    executor = eqf.Executor(block_size=block_size)

    def rounds(num_rounds):
        state = algorithm.init(model, num_clients=loader.num_clients)
        options = {"key": jr.key(1), "executor": executor}
        iterator = eqf.rounds(
            algorithm, state, loader, num_rounds=num_rounds, **options
        )
        return (state.model for state, _ in iterator)

    return rounds


def fedjax_rounds(work, loader) -> Callable:
    import fedjax
    import haiku as hk

    # FedJAX 0.0.17 uses a name that JAX no longer has.
    jax.tree_map = jax.tree_util.tree_map
    fedjax.set_for_each_client_backend("jit")

    def forward(batch, is_train=True):
        x = batch["image"].astype(jnp.float32) / 255
        x = jax.nn.relu(hk.Conv2D(32, 3, padding="VALID")(x))
        x = jax.nn.relu(hk.Conv2D(64, 3, padding="VALID")(x))
        x = hk.MaxPool((1, 2, 2, 1), (1, 2, 2, 1), "VALID")(x)
        x = jax.nn.relu(hk.Linear(128)(hk.Flatten()(x)))
        return hk.Linear(work.num_classes)(x)

    shape = (1, *work.image_shape)
    sample = {"image": np.zeros(shape, np.uint8), "label": np.zeros(1, np.int32)}
    model = fedjax.create_model_from_haiku(
        hk.transform(forward),
        sample,
        lambda batch, logits: fedjax.metrics.unreduced_cross_entropy_loss(
            batch["label"], logits
        ),
    )
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        fedjax.model_grad(model),
        fedjax.optimizers.sgd(LEARNING_RATE),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(
            batch_size=work.batch_size, num_epochs=1, seed=0
        ),
    )
    dataset = loader.dataset
    clients = fedjax.InMemoryFederatedData(
        {dataset.client_ids[i]: dataset.client(i) for i in range(dataset.num_clients)}
    )

    def rounds(num_rounds):
        state = algorithm.init(model.init(jax.random.PRNGKey(0)))
        for r in range(num_rounds):
            keys = jax.random.split(jax.random.PRNGKey(r), work.cohort_size)
            names = [
                dataset.client_ids[i] for i in loader.sampler(r, loader.num_clients)
            ]
            cohort = [
                (name, clients.get_client(name), key)
                for name, key in zip(names, keys, strict=True)
            ]
            state, _ = algorithm.apply(state, cohort)
            yield state.params

    return rounds


def steps_of(loader, num_rounds: int, block_size: int) -> tuple[int, float]:
    """The batches of the timed rounds, and their share of what the blocks go through,
    in which every client takes as many steps as its block's longest."""
    real = run = 0
    for r in range(1, num_rounds + 1):
        cohort = loader(r)
        steps = np.asarray(cohort.stop - cohort.start)[0]
        steps = np.pad(steps, (0, -len(steps) % block_size)).reshape(-1, block_size)
        real += steps.sum()
        run += steps.max(1).sum() * block_size
    return int(real), float(real / run)


def matmul_rate(dtype, size: int, repeats: int = 5) -> float:
    """FLOP/s of a chain of products of square matrices."""
    x = jr.normal(jr.key(0), (size, size), dtype) / math.sqrt(size)
    chain = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: y @ x, x))
    jax.block_until_ready(chain(x))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(chain(x))
        times.append(time.perf_counter() - start)
    return 10 * 2 * size**3 / statistics.median(times)


def known_peaks(kind: str, given: list[float] | None) -> dict[str, float]:
    """FLOP/s by dtype; empty for a card that the table does not have."""
    if given is not None:
        return {"bfloat16": 1e12 * given[0], "float32": 1e12 * given[1]}
    for name, (half, tensor, single) in PEAKS.items():
        if name.lower() in kind.lower():
            return {"bfloat16": 1e12 * half, "float32": 1e12 * (tensor or single)}
    return {}


def configurations(work: Work, args) -> Iterator[tuple[str, int, str, str]]:
    """Library, block size, lowering and dtype."""
    # A block larger than the cohort would be padded to no use.
    blocks = sorted({min(block, work.cohort_size) for block in args.blocks})
    for block, dtype in itertools.product(blocks, args.dtypes):
        for lowering in args.lowerings if block > 1 else ["auto"]:
            yield "equifed", block, lowering, dtype
    if importlib.util.find_spec("fedjax") is not None:
        yield "fedjax", 1, "-", "float32"


def measure(work, loader, library, block, lowering, dtype, args) -> dict:
    if library == "fedjax":
        rounds = fedjax_rounds(work, loader)
    else:
        rounds = equifed_rounds(work, loader, lowering, block, dtype)
    compiling, seconds = time_rounds(rounds, args.rounds, args.repeats)
    steps, filled = steps_of(loader, args.rounds, block)
    second = statistics.median(seconds)
    flops = steps * work.batch_size * work.flops_per_example / args.rounds
    return {
        "first_pass_s": compiling,
        "round_s": second,
        "round_s_all": seconds,
        "total_s": TOTAL_ROUNDS * second,
        "extrapolated": args.rounds < TOTAL_ROUNDS,
        "steps_per_round": steps / args.rounds,
        "filled": filled,
        "flops_per_s": flops / second,
    }


HEADER = (
    f"{'work':8} {'library':8} {'block':>5} {'lowering':10} {'dtype':8} "
    f"{'round':>11} {'1500 rounds':>12} {'TFLOP/s':>8} {'share':>6} {'filled':>6} "
    f"{'compile':>8}"
)


def show(row: dict) -> str:
    start = "{work:8} {library:8} {block:5} {lowering:10} {dtype:8} ".format(**row)
    if "error" in row:
        return start + row["error"]
    sign = "~" if row["extrapolated"] else " "
    return start + (
        f"{1e3 * row['round_s']:8.2f} ms {sign}{row['total_s']:9.1f} s "
        f"{row['flops_per_s'] / 1e12:8.3f} {row['share']:6.1%} {row['filled']:6.0%} "
        f"{row['first_pass_s']:6.1f} s"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--tiny", action="store_true", help="a minute on a CPU, to try the program")
    add("--works", nargs="+", choices=WORKS, default=list(WORKS))
    add("--blocks", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    add("--lowerings", nargs="+", choices=LOWERINGS, default=list(LOWERINGS))
    add("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    add("--rounds", type=int, default=10, help="timed in one pass")
    add("--repeats", type=int, default=3, help="timed passes")
    add("--peak", nargs=2, type=float, metavar=("BFLOAT16", "FLOAT32"), help="TFLOP/s")
    add("--minutes", type=float, default=math.inf, help="start nothing after these")
    add("--output", default="gpu.json")
    args = parser.parse_args()
    if args.tiny:
        args.blocks, args.rounds, args.repeats = [2], 1, 1
    if args.rounds >= TOTAL_ROUNDS:
        args.rounds, args.repeats = TOTAL_ROUNDS, 1
    return args


def main():
    args, begin = parse(), time.perf_counter()
    device = jax.devices()[0]
    size = 8192 if device.platform != "cpu" else 512
    rates = {name: matmul_rate(dtype, size) for name, dtype in DTYPES.items()}
    peaks = known_peaks(device.device_kind, args.peak)
    report = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "tiny": args.tiny,
        "matmul_flops_per_s": rates,
        "peak_flops_per_s": peaks,
        "share_of": "peak" if peaks else "measured matrix product",
        "rounds_timed": args.rounds,
        "repeats": args.repeats,
        "rows": [],
    }
    print(f"{device.device_kind}, jax {jax.__version__}", flush=True)
    for name, rate in rates.items():
        peak = f", of a peak of {peaks[name] / 1e12:.0f}" if peaks else ""
        print(f"{size}x{size} products in {name}: {rate / 1e12:.2f} TFLOP/s{peak}")
    if args.rounds < TOTAL_ROUNDS:
        print(
            f"~: extrapolated to {TOTAL_ROUNDS} rounds from the median of "
            f"{args.repeats} x {args.rounds} timed rounds"
        )
    print(f"share: of the {report['share_of']}\n{HEADER}", flush=True)
    for name in args.works:
        work = WORKS[name].tiny() if args.tiny else WORKS[name]
        batching = eqf.data.Epochs(1, batch_size=work.batch_size)
        sampler = eqf.data.UniformSampler(work.cohort_size, seed=0)
        loader = eqf.data.Loader(work.dataset(), sampler, batching)
        for library, block, lowering, dtype in configurations(work, args):
            if time.perf_counter() - begin > 60 * args.minutes:
                print("out of time")
                return
            row = {"work": name, "library": library, "block": block}
            row |= {"lowering": lowering, "dtype": dtype}
            try:
                row |= measure(work, loader, library, block, lowering, dtype, args)
                row["share"] = row["flops_per_s"] / (peaks or rates)[dtype]
            except Exception as error:
                # Out of memory, or another library's quarrel with this JAX.
                row["error"] = f"{type(error).__name__}: {str(error)[:200]}"
            report["rows"].append(row)
            print(show(row), flush=True)
            with open(args.output, "w") as file:
                json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
