"""equifed beside other libraries: the same rounds, taken in turns.

Every side trains the same model on the same batches, in a process and a virtual
environment of its own, and the parameters after two rounds are compared before any
time is taken. Prints a table, and writes `compare.json` with every time taken and
`compare.png`.

    nox -s benchmarks                  # makes the virtual environments, runs all
    python benchmarks/compare.py       # what needs no other environment
    python benchmarks/compare.py --venvs DIR --peers fedjax,bare --work emnist_cnn
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile

from _harness import compare, SIDES
from _work import Work, WORKS


def main() -> None:
    options = parse()
    output = pathlib.Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    names = ["equifed", *(n for n in options.peers if n != "equifed")]
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as directory:
        options.data = options.data or directory
        for name in options.work:
            work = WORKS[name].quick() if options.quick else WORKS[name]
            work.data(options.data)  # Before any side is timed.
            for clients in cohorts(work, options):
                print(f"{name}, {clients} clients a round", flush=True)
                row = compare(work, clients, names, options)
                rows.append(row)
                show(row)
                result = {"machine": machine(), "options": vars(options), "rows": rows}
                text = json.dumps(result, indent=1)
                (output / "compare.json").write_text(text)
    plot(rows, output / "compare.png")


def parse() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--peers",
        type=words,
        help=f"which of {', '.join(SIDES)}, with commas between; by default all "
        "that there are environments for",
    )
    parser.add_argument(
        "--work",
        type=words,
        default=list(WORKS),
        help=f"which of {', '.join(WORKS)}, with commas between",
    )
    parser.add_argument("--clients", type=int, help="clients a round")
    parser.add_argument("--repeats", type=int, default=10, help="turns of each side")
    parser.add_argument(
        "--seconds",
        type=float,
        default=30,
        help="stop before `--repeats` when the slowest side has run for so long",
    )
    parser.add_argument(
        "--turn", type=float, default=1.0, help="seconds of rounds in a turn"
    )
    parser.add_argument(
        "--evaluate", type=int, default=100, help="clients to evaluate on; 0: none"
    )
    parser.add_argument("--quick", action="store_true", help="to try the scripts")
    parser.add_argument("--venvs", help="a directory with the peers' environments")
    parser.add_argument("--data", help="where to keep the data, for another time")
    parser.add_argument("--output", default="runs/benchmarks")
    options = parser.parse_args()
    if options.peers is None:
        options.peers = [
            n for n, side in SIDES.items() if options.venvs or not side.venv
        ]
    for given, known in ((options.peers, SIDES), (options.work, WORKS)):
        if unknown := set(given) - set(known):
            parser.error(f"no such thing: {', '.join(sorted(unknown))}")
    if options.quick:
        options.repeats, options.turn, options.evaluate = 1, 0.0, 5
    return options


def cohorts(work: Work, options: argparse.Namespace) -> tuple[int, ...]:
    if options.clients:
        return (options.clients,)
    return (2,) if options.quick else work.cohorts


def machine() -> dict:
    return {
        "date": datetime.date.today().isoformat(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
    }


def processor() -> str:
    path = pathlib.Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def ratios(side: dict, ours: dict, of: str) -> list[float]:
    """That side's median time over ours, and the quartiles of the ratios round for
    round: a round that compiled would stand out of any scale."""
    if of not in side or of not in ours:
        return []
    theirs, base = side[of], ours[of]
    pairs = sorted(a / b for a, b in zip(theirs, base, strict=True))
    median = statistics.median(theirs) / statistics.median(base)
    return [median, pairs[len(pairs) // 4], pairs[-1 - len(pairs) // 4]]


def show(row: dict) -> None:
    ours = row["sides"][0]
    print(
        f"  {row['parameters']:,} parameters, about {row['steps']} steps a round\n"
        f"  {'side':14} {'round':>11} {'ratio':>7} {'quartiles':>13} "
        f"{'evaluate':>9} {'each':>6} {'first round':>11} {'memory':>8} "
        "parameters differ"
    )
    for side in row["sides"]:
        median, low, high = ratios(side, ours, "round_s")
        whole = ratios(side, ours, "evaluate_s")
        each = ratios(side, ours, "evaluate_per_client_s")
        apart = side["difference"]
        print(
            f"  {side['name']:14} {1e3 * statistics.median(side['round_s']):8.1f} ms "
            f"{median:7.2f} {f'{low:.2f}..{high:.2f}':>13} "
            f"{f'{whole[0]:.2f}' if whole else '-':>9} "
            f"{f'{each[0]:.2f}' if each else '-':>6} "
            f"{side['seconds_to_first_round']:9.1f} s {side['peak_rss_mb']:5.0f} MB "
            f"{'-' if apart is None else f'{apart:.1e}'}",
            flush=True,
        )


def plot(rows: list[dict], path: pathlib.Path) -> None:
    """A line for each workload: how many times our time each side takes."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        print("no figure: it needs `pip install matplotlib`")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(s["name"] for r in rows for s in r["sides"]))[1:]
    figure, axes = plt.subplots(
        figsize=(7, 1.2 + 0.5 * len(rows)), layout="constrained"
    )
    axes.axvline(1, color="black", linewidth=1, label=rows[0]["sides"][0]["name"])
    for i, name in enumerate(names):
        # Each side a little below the one before, so that none is hidden.
        shift = 0.12 * (i - (len(names) - 1) / 2)
        found = [
            (j + shift, *ratios(side, row["sides"][0], "round_s"))
            for j, row in enumerate(rows)
            for side in row["sides"]
            if side["name"] == name
        ]
        places, medians, low, high = zip(*found, strict=True)
        axes.hlines(places, low, high, color=f"C{i}", linewidth=1.5)
        axes.scatter(
            medians, places, s=28, marker="osD^vPX"[i % 7], label=name, zorder=3
        )
    for j in range(1, len(rows)):
        axes.axhline(j - 0.5, color="0.9", linewidth=0.8)
    labels = [f"{row['work']}, {row['clients']} clients" for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xscale("log", subs=[2, 5])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("time of a round / equifed's")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(fontsize=9, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
