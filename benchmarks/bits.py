"""Whether ordered rounds have the same bits on any number of devices, and their cost.

    python benchmarks/bits.py            # an hour on two cores
    python benchmarks/bits.py --quick    # a few cases, one block size

Every case is trained for three rounds without a mesh, and on 1, 2 and 4 host devices,
with resident and with streamed data, at several block sizes; once more in 64 bits. A
row counts the numbers of the state and the metrics whose bits are not those of the same
case without a mesh; `plain` is the same for rounds that are not ordered. `blocks` is
the largest relative difference from a block size of 1, which need not be zero. The last
table tells what a round takes. Exits with 1 if anything differs.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

import jax


jax.config.update("jax_num_cpu_devices", 4)
if os.environ.get("BITS_X64"):
    jax.config.update("jax_enable_x64", True)

import equinox as eqx  # noqa: E402
import jax.random as jr  # noqa: E402
import jax.tree_util as jtu  # noqa: E402
import numpy as np  # noqa: E402
from _report import print_table, write_json  # noqa: E402

import equifed as eqf  # noqa: E402


sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from tests import test_bits  # noqa: E402
from tests.algorithms import ALGORITHMS  # noqa: E402


QUICK = ("noise", "FedPA", "CNN")
COUNTS = (None, 1, 2, 4)


def cases(quick: bool) -> dict[str, tuple]:
    """The tests' cases, and every algorithm of the laws with normal noise."""
    if quick:
        return {name: test_bits.PROBLEMS[name] for name in QUICK}
    noisy = (test_bits.noisy, test_bits.perceptron, test_bits.NUMBERS)
    return test_bits.PROBLEMS | {
        f"laws: {name}": (
            *noisy,
            lambda loss, optim, batching, make=make: make(loss, batching),
        )
        for name, make in ALGORITHMS.items()
    }


def train(
    case: tuple,
    count: int | None,
    *,
    resident: bool = True,
    block_size: int = 1,
    ordered: bool = True,
) -> tuple[list[np.ndarray], float]:
    """The numbers after three rounds, and the seconds of the fastest of ten more."""
    loss, model, dataset, kind = case
    algorithm = kind(loss, test_bits.SGD, test_bits.BATCHING)
    mesh = test_bits.mesh_of(count)
    loader = eqf.data.Loader(
        dataset,
        eqf.data.UniformSampler(6, seed=3),
        test_bits.BATCHING,
        mesh=mesh,
        resident=resident,
    )
    executor = eqf.Executor(ordered=ordered, block_size=block_size)
    state = algorithm.init(model(key=jr.key(2)), num_clients=dataset.num_clients)
    metrics: dict[str, Any] = {}
    for number in range(3):
        state, metrics = algorithm.round(
            state, loader(number), key=jr.key(5), executor=executor
        )
    leaves = jtu.tree_leaves(eqx.filter((state, metrics), eqx.is_inexact_array))
    numbers = [np.asarray(x) for x in leaves]
    cohort, times = loader(0), []
    for _ in range(10):
        begin = time.perf_counter()
        out = algorithm.round(state, cohort, key=jr.key(5), executor=executor)
        jax.block_until_ready(eqx.filter(out, eqx.is_array))
        times.append(time.perf_counter() - begin)
    return numbers, min(times)


def differing(x: list[np.ndarray], y: list[np.ndarray]) -> int:
    """How many numbers have other bits."""
    kinds = {4: np.uint32, 8: np.uint64}
    pairs = zip(x, y, strict=True)
    views = ((a.view(kinds[a.itemsize]), b.view(kinds[b.itemsize])) for a, b in pairs)
    return sum(int((a != b).sum()) for a, b in views)


def apart(x: list[np.ndarray], y: list[np.ndarray]) -> float:
    """The largest difference, relative to the largest number of its array."""
    pairs = zip(x, y, strict=True)
    return max(
        float(np.max(np.abs(a - b) / max(np.max(np.abs(a)), 1e-30))) if a.size else 0.0
        for a, b in pairs
    )


def rows_of(name: str, case: tuple, blocks: tuple[int, ...]) -> tuple[list, list]:
    """The comparisons of one case, and its times."""
    rows, first = [], None
    plain, seconds = zip(*(train(case, n, ordered=False) for n in COUNTS), strict=True)
    cost = {"case": name, "bits": 64 if os.environ.get("BITS_X64") else 32}
    for count, taken in zip(COUNTS, seconds, strict=True):
        cost[f"plain {count or '-'}"] = 1e3 * taken
    for block in blocks:
        expected, taken = train(case, None, block_size=block)
        first = expected if first is None else first
        row = {"case": name, "bits": cost["bits"], "block": block}
        for resident in (True, False):
            for count in COUNTS:
                if count is None and resident:
                    continue
                got, taken = train(case, count, resident=resident, block_size=block)
                where = "resident" if resident else "streamed"
                row[f"{where} {count or '-'}"] = differing(got, expected)
                if block == 1 and resident:
                    cost[f"ordered {count}"] = 1e3 * taken
        row["plain 2"] = differing(plain[2], plain[0])
        row["blocks"] = apart(first, expected)
        rows.append(row)
        jax.clear_caches()
    return rows, [cost]


def in_64_bits(quick: bool) -> tuple[list, list]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--child", *(["--quick"] if quick else [])]
    done = subprocess.run(
        command,
        env={**os.environ, "BITS_X64": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows, costs = json.loads(done.stdout.splitlines()[-1])
    return rows, costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", default="runs/benchmarks/bits.json")
    options = parser.parse_args()
    rows, costs = [], []
    for name, case in cases(options.quick).items():
        print(name, file=sys.stderr, flush=True)
        new = rows_of(name, case, (1,) if options.quick or options.child else (1, 3, 8))
        rows += new[0]
        costs += new[1]
    if options.child:
        print(json.dumps((rows, costs)))
        return
    new = in_64_bits(options.quick)
    rows += new[0]
    costs += new[1]
    print_table("Numbers whose bits differ from those without a mesh", rows)
    print_table("Milliseconds a round", costs)
    names = [k for k in rows[0] if k.startswith(("resident", "streamed"))]
    wrong = sum(row[k] > 0 for row in rows for k in names)
    print(f"\n{wrong} of {len(rows) * len(names)} comparisons differ")
    write_json(options.out, {"rows": rows, "costs": costs, "differ": wrong})
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
