"""What `scaling.py` and `stream.py` share: timing rounds, and telling the figures.

A row is a dictionary; a table has one line for each. Numbers are rounded when they are
shown, never when they are stored.
"""

import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.random as jr
import numpy as np

import equifed as eqf
from equifed._json import to_json
from equifed._stepper.stepper import Stepper


def stepper(algorithm, model, loader, executor=None, roles=None) -> Stepper:
    """The compiled round, as `rounds` and `train` call it."""
    state = algorithm.init(model, num_clients=loader.num_clients, roles=roles)
    executor = eqf.Executor() if executor is None else executor
    return Stepper(algorithm, state, key=jr.key(0), executor=executor, mesh=loader.mesh)


def round_times(step: Stepper, cohorts: Iterable[eqf.Cohort]) -> list[float]:
    """Seconds from one finished round to the next; input that is late is in it."""
    times, before = [], None
    for cohort in cohorts:
        if before is None:
            before = time.perf_counter()  # The first cohort has nothing to hide behind.
        jax.block_until_ready(step(cohort))
        times.append(time.perf_counter() - before)
        before += times[-1]
    return times


def input_times(algorithm, model, open_loader, num_rounds: int, repeats: int) -> dict:
    """Times the same rounds twice over: from cohorts that are there, and from the
    loader's thread. What the second takes longer is lost to input.

    The two alternate, and the figures of a round are medians over `repeats`. The
    loader of each pass is `open_loader()`.
    """
    making, cohorts, loader = [], [], open_loader()
    for r in range(num_rounds):
        begin = time.perf_counter()
        cohorts.append(jax.block_until_ready(loader(r)))
        making.append(time.perf_counter() - begin)
    step = stepper(algorithm, model, loader)
    round_times(step, cohorts)  # Compiles for every shape.
    device, fed, read = [], [], 0.0
    for _ in range(repeats):
        device.append(round_times(step, cohorts))
        del loader
        loader = open_loader()
        before = read_from_disk()
        fed.append(round_times(step, (c for _, c in loader.cohorts(0, num_rounds))))
        read += read_from_disk() - before
    # The first round of a pass is left out: it could not be prepared ahead.
    device, fed = (np.median(x, axis=0)[1:] for x in (device, fed))
    steps = np.array([np.asarray(c.stop).max(1).sum() for c in cohorts])
    return {
        "steps": int(np.median(steps)),
        "device_ms": 1e3 * float(np.median(device)),
        "us_per_step": 1e6 * float(np.median(device / steps[1:])),
        "cohort_ms": 1e3 * statistics.median(making),
        "cohort_share": statistics.median(making) / float(np.median(device)),
        "fed_ms": 1e3 * float(np.median(fed)),
        "lost_share": float(fed.sum() / device.sum()) - 1,
        "disk_MB": read / repeats / num_rounds,
    }


def read_from_disk() -> float:
    """MB that this process had to wait for a disk to give."""
    with open("/proc/self/io") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["read_bytes"]) / 2**20


def memory() -> dict[str, float]:
    """Memory of this process in MB: resident (its own, and pages of mapped files), the
    peak of both, and what is reserved.

    (`ru_maxrss` would begin with the peak of the process that started this one.)
    """
    names = ("RssAnon", "RssFile", "VmHWM", "VmData")
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {k: int(lines[k].split()[0]) / 1024 for k in names}


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    return {
        "device": str(jax.devices()[0]),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def show(value: Any) -> str:
    """Three significant digits of a number; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def print_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Prints rows that share their keys under a title."""
    print(f"\n{title}\n")
    if not rows:
        return
    cells = [list(rows[0])] + [[show(row[k]) for k in rows[0]] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        print("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)))


def write_json(path: str, results: dict[str, Any]) -> None:
    """Replaces the file by the results, as a whole or not at all."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(f"{path}.part", "w") as file:
        file.write(to_json({"machine": machine(), **results}, indent=2))
    os.replace(f"{path}.part", path)
    print(f"\nwrote {path}")


def plot(path: str, panels: Sequence[tuple[str, str, str, list[dict]]]) -> None:
    """Draws one panel for each (title, x, y, rows); `y` may name several columns,
    separated by commas. Both axes are logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    width = 3 * len(panels)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width, 3), layout="constrained", squeeze=False
    )
    for axis, (title, x, ys, rows) in zip(axes[0], panels, strict=True):
        lowest, highest = [], []
        for y in ys.split(","):
            points = [(row[x], row[y]) for row in rows if row.get(y)]
            if not points:
                continue
            axis.plot(*zip(*points, strict=True), marker="o", label=y)
            lowest.append(min(p[1] for p in points))
            highest.append(max(p[1] for p in points))
        axis.set(xscale="log", yscale="log", title=title, xlabel=x)
        if lowest:
            # A flat line should look flat: at least a factor of 10 is shown.
            low, high = min(lowest) / 2, max(highest) * 2
            axis.set_ylim(low, max(high, 10 * low))
            axis.legend(fontsize="x-small")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"wrote {path}")
