"""`equifed run` with every algorithm, on the digits by their writers, in one figure.

What is typed on the command line for each is below: the same model, clients and
batches, and rates that suit it. All runs go on where they are if the program is started
again.

    python examples/every_algorithm.py [--rounds 60] [--output .] [--only fedavg ifca]
"""

import argparse
import pathlib
import shlex
import subprocess
import sys

import equifed as eqf


SAME = (
    "--task digits-dense --clients-per-round 6 --eval-every 5 --batching.batch-size 8 "
    "--batching.epochs 2"
)
SGD = "--client-optim sgd --client-optim.learning-rate 0.1"
ONE = "--server-optim sgd --server-optim.learning-rate"
CLOCK = "--max-staleness 20 --clock asynchronous --clock.buffer-size 4 --clock.spread 1"
GROUPS = {
    "the server's optimiser": {
        "fedsgd": f"{ONE} 0.5",
        "fedavg": SGD,
        "fedavgm": f"{SGD} --momentum 0.5",
        "fedadagrad": f"{SGD} --server-learning-rate 0.1 --tau 0.01",
        "fedadam": f"{SGD} --server-learning-rate 0.03 --tau 0.01",
        "fedyogi": f"{SGD} --server-learning-rate 0.03 --tau 0.01",
        "diloco": "--client-optim adam --client-optim.learning-rate 0.003",
        "streamingdiloco": "--client-optim adam --client-optim.learning-rate 0.003 "
        "--fragments 2 --delay 4 --alpha 0.5",
    },
    "client drift": {
        "fedprox": f"{SGD} --mu 0.1",
        "scaffold": SGD,
        "feddyn": f"{SGD} --alpha 0.1",
        "feddc": f"{SGD} --alpha 0.1",
        "fednova": SGD,
        "fedlin": "--learning-rate 0.5",
        "scaffnew": "--learning-rate 0.1 --probability 0.03",
    },
    "momentum and memory": {
        "fedcm": f"{SGD} {ONE} 3 --alpha 0.1",
        "fedacg": f"{SGD} --momentum 0.5 --beta 0.01",
        "mime": "--optim sgd --optim.learning-rate 0.1",
        "mimelite": "--optim sgd --optim.learning-rate 0.1",
        "fedvarp": SGD,
        "mifa": "--learning-rate 0.1",
        "fedexp": SGD,
    },
    "flat minima": {
        "fedsam": f"{SGD} --rho 0.05",
        "mofedsam": f"{SGD} {ONE} 3 --alpha 0.1 --rho 0.05",
        "fedspeed": f"{SGD} --lam 10 --rho 0.05",
        "fedlesam": f"{SGD} --rho 0.05",
        "fedsmoo": f"{SGD} --alpha 0.1 --rho 0.05",
        "fedsophia": "--learning-rate 0.02 --rho 0.1",
    },
    "labels and representations": {
        "fedntd": SGD,
        "fedlc": f"{SGD} --tau 0.1",
        "feddecorr": f"{SGD} --beta 0.1",
        "moon": f"{SGD} --mu 1",
    },
    "fairness and trust": {
        "afl": f"{SGD} --weight-learning-rate 0.01",
        "qfedavg": "--learning-rate 0.1 --q 0.1",
        "term": f"{SGD} --t 0.5",
        "fltrust": SGD,
        "agnosticfedavg": f"{SGD} --num-domains 10 --domain label "
        "--domain-learning-rate 0.01",
    },
    "own parts": {
        "fedper": SGD,
        "lgfedavg": SGD,
        "fedrep": f"{SGD} --batching.epochs 11",
        "fedalt": SGD,
        "fedbn": f"{SGD} --personal layers.0.bias",
        "fedbabu": SGD,
        "localonly": SGD,
    },
    "own models": {
        "ditto": f"{SGD} --lam 0.1",
        "apfl": f"{SGD} --alpha-learning-rate 0.01",
        "pfedme": f"{SGD} --lam 5 --own-learning-rate 0.05",
        "perfedavg": f"{SGD} --alpha 0.05",
        "fedala": f"{SGD} --weight-learning-rate 1",
        "fedrod": SGD,
        "fedproto": f"{SGD} --num-classes 10 --num-features 64",
    },
    "adapters": {
        "rolora": f"{SGD} --lora 8",
        "flora": "--client-optim sgd --client-optim.learning-rate 0.5 --lora 4",
        "fedexlora": f"{SGD} --lora 8",
        "flexlora": "--client-optim sgd --client-optim.learning-rate 0.02 --lora 8",
        "hetlora": f"{SGD} --lora 8 --lam 0.001 --gamma 0.99",
    },
    "asynchronous": {
        "fedbuff": f"{SGD} {CLOCK}",
        "fedasync": f"{SGD} {CLOCK} --alpha 0.6",
        "fadas": f"{SGD} {CLOCK} --server-learning-rate 0.01",
        "ca2fl": f"{SGD} {CLOCK} {ONE} 0.3",
    },
    "posteriors and clusters": {
        "fedpa": f"{SGD} --rho 0.01 --burnin 1 --batching.epochs 5",
        "fedep": "--client-optim sgd --client-optim.learning-rate 0.02",
        "ifca": f"{SGD} --num-clusters 2",
        "hypcluster": f"{SGD} --num-clusters 2",
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    parser.add_argument("--only", nargs="*", help="algorithms, all if not given")
    args = parser.parse_args()
    groups = {
        group: {n: x for n, x in runs.items() if not args.only or n in args.only}
        for group, runs in GROUPS.items()
    }
    for runs in groups.values():
        for name, words in runs.items():
            train(name, words, args.rounds, args.output / "runs" / name)
    plot(groups, args.output)


def train(name, words, rounds, folder):
    if (folder / "result.json").exists():
        return
    if (folder / "config.json").exists():
        command = f"resume {shlex.quote(str(folder))}"
    else:
        command = f"run {SAME} --algorithm {name} --rounds {rounds} {words}"
        command += f" --output {shlex.quote(str(folder))}"
    print(f"equifed {command}", flush=True)
    subprocess.run([sys.executable, "-m", "equifed", *shlex.split(command)], check=True)


def plot(groups, output):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = {group: runs for group, runs in groups.items() if runs}
    figure, grid = plt.subplots(
        *((len(groups) + 1) // 2, 2),
        figsize=(10, 2.8 * ((len(groups) + 1) // 2)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for ax in grid.flat[len(groups) :]:
        ax.set_axis_off()
    for ax, (group, runs) in zip(grid.flat, groups.items(), strict=False):
        for name in runs:
            run = history(output / "runs" / name)
            # Clusters are not evaluated in between: it is that of training.
            several = name in ("ifca", "hypcluster")
            label = f"{name} (in training)" if several else name
            metric = "accuracy" if several else "test/accuracy"
            eqf.plot.learning_curves({label: run}, metric, ax=ax)
        ax.set(title=group, ylim=(0.7, 1.0), ylabel="accuracy")
    path = output / "every_algorithm.png"
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


def history(folder):
    """What `equifed run` has kept, as the figures take it."""
    import json
    import types

    rows = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return types.SimpleNamespace(history=[json.loads(row) for row in rows])


if __name__ == "__main__":
    main()
