"""FedPA beside FedAvg on handwriting, split by the people who wrote it.

Three trainings with the same model: FedAvg whose clients take one epoch (1E) or several
(ME), and FedPA, whose clients take as many epochs as FedAvg-ME and make one sample of
their posterior of each but the first. FedPA begins with rounds of FedAvg; the figure
marks where it sets in. Every training is repeated with several seeds, which change the
first model and who takes part when, and accuracy is measured on writers who never do.

`--data` is a directory with `train.parquet` and `test.parquet`, as for
`mnist_by_writer.py`, or the name of a dataset on Hugging Face with the columns `image`,
`writer_id` and `character`. For the latter a tenth of the writers is held out, and the
other options default to what FedPA's authors give for EMNIST: work for a GPU.

    python examples/fedpa_mnist.py --data mnist_by_writer
    python examples/fedpa_mnist.py --data flwrlabs/femnist --block-size 25
"""

import argparse
import json
import os
import pathlib
import re
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf


WHERE = "unseen writers/accuracy"
# The client's learning rates, by algorithm, and the other choices. Those of MNIST were
# the best of a few on a tenth of the writers who train.
MNIST = {
    "label": "label",
    "num_classes": 10,
    "rates": {"FedAvg-1E": 0.1, "FedAvg-ME": 0.02, "FedPA-ME": 0.02},
    "rounds": 200,
    "clients": 20,
    "start_round": 30,
    "rho": 0.1,
    "eval_every": 5,
    "targets": (0.97, 0.98, 0.985),
}
EMNIST = {
    "label": "character",
    "num_classes": 62,
    "rates": {"FedAvg-1E": 0.02, "FedAvg-ME": 0.02, "FedPA-ME": 0.02},
    "rounds": 1500,
    "clients": 100,
    "start_round": 400,
    "rho": 0.01,
    "eval_every": 10,
    "targets": (0.80, 0.84, 0.86),
}


class CNN(eqx.Module):
    """Two convolutions and two dense layers, for one image of 784 bytes."""

    conv1: eqf.nn.Conv2d
    conv2: eqf.nn.Conv2d
    pool: eqf.nn.MaxPool2d
    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear

    def __init__(self, num_classes, key):
        keys = jr.split(key, 4)
        self.conv1 = eqf.nn.Conv2d(1, 8, 5, key=keys[0])
        self.conv2 = eqf.nn.Conv2d(8, 16, 5, key=keys[1])
        self.pool = eqf.nn.MaxPool2d(2)
        self.dense1 = eqx.nn.Linear(256, 64, key=keys[2])
        self.dense2 = eqx.nn.Linear(64, num_classes, key=keys[3])

    def __call__(self, image):
        x = image.reshape(28, 28, 1).astype(jnp.float32) / 255
        x = jax.nn.relu(self.pool(self.conv1(x)))
        x = jax.nn.relu(self.pool(self.conv2(x)))
        return self.dense2(jax.nn.relu(self.dense1(x.reshape(-1))))


class Loss(eqx.Module):
    label: str

    def __call__(self, model, example, key):
        logits, label = model(example["image"]), example[self.label]
        right = eqf.accuracy(logits, label)
        return eqf.cross_entropy(logits, label), {"accuracy": right}


def mnist(directory):
    """The writers of the two files: those who train, and those who test."""
    return tuple(
        eqf.data.FederatedDataset.from_parquet(
            directory / f"{split}.parquet", by="client_id", columns=["image", "label"]
        )
        for split in ("train", "test")
    )


def huggingface(name):
    """A dataset with one split, a tenth of whose writers is held out."""
    import datasets

    examples = datasets.load_dataset(name, split="train")
    writers = eqf.data.FederatedDataset.from_huggingface(
        examples, by="writer_id", columns=["image", "character"]
    )
    return writers.split_clients(0.1, seed=0)


def make_algorithm(name, loss, args, rate):
    optim = optax.sgd(rate, momentum=0.9)
    server = optax.sgd(args.server_rate, momentum=0.9)
    num_epochs = 1 if name == "FedAvg-1E" else args.epochs
    batching = eqf.data.Epochs(num_epochs, batch_size=20)
    if name != "FedPA-ME":
        return eqf.FedAvg(loss, optim, batching, server_optim=server)
    return eqf.FedPA(
        loss,
        eqf.posterior.IASG(optim, burnin=1),
        batching,
        rho=args.rho,
        start_round=args.start_round,
        server_optim=server,
    )


def run(algorithm, seed, data, num_classes, args):
    """One training, and the seconds that it took."""
    train, test = data
    mesh = jax.make_mesh((len(jax.devices()),), ("clients",))
    sampler = eqf.data.UniformSampler(args.clients, seed=seed)
    begin = time.perf_counter()
    solution = eqf.train(
        algorithm,
        CNN(num_classes, jr.key(seed)),
        eqf.data.Loader(train, sampler, algorithm.batching, mesh=mesh),
        num_rounds=args.rounds,
        key=jr.key(seed),
        evaluation={"unseen writers": test},
        eval_every=args.eval_every,
        executor=eqf.Executor(block_size=args.block_size),
        logger=eqf.Loggers(eqf.ProgressBar("loss"), eqf.Table("loss", WHERE, every=50)),
    )
    return solution, time.perf_counter() - begin


def first_round(solution, target):
    """The first round measured at which the accuracy is reached, or none."""
    rounds, accuracy = solution.values(WHERE)
    reached = (r for r, a in zip(rounds, accuracy, strict=True) if a >= target)
    return next(reached, None)


def report(solutions, seconds, targets):
    """Prints a row for each algorithm: means over the seeds, and in brackets the lowest
    and the highest."""
    heads = [f"round of {100 * target:g}%" for target in targets]
    row = "{:10} {:>24} " + "{:>17} " * len(heads) + "{:>8}"
    print(row.format("", "accuracy at the end", *heads, "s/round"))
    for name, seeds in solutions.items():
        last = 100 * np.array([s.values(WHERE)[1][-1] for s in seeds])
        cells = [f"{last.mean():.2f} [{last.min():.2f}, {last.max():.2f}]"]
        for target in targets:
            firsts = [first_round(s, target) for s in seeds]
            reached = [r for r in firsts if r is not None]
            if len(reached) < len(seeds):
                cells.append(f"{len(reached)} of {len(seeds)} seeds")
            else:
                mean = np.mean(reached)
                cells.append(f"{mean:.0f} [{min(reached)}, {max(reached)}]")
        num_rounds = seeds[0].history[-1]["round"]
        cells.append(f"{np.median(seconds[name]) / num_rounds:.2f}")
        print(row.format(name, *cells))


def save(path, solutions, seconds, args):
    """Writes all histories; who reads the file meanwhile finds the old one whole."""
    settings = {k: str(v) if k in ("data", "output") else v for k, v in args.items()}
    runs = {
        name: [
            {"seconds": s, "history": solution.history}
            for solution, s in zip(seeds, seconds[name], strict=True)
        ]
        for name, seeds in solutions.items()
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"settings": settings, "runs": runs}))
    os.replace(part, path)


def plot(solutions, start_round, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    eqf.plot.learning_curves(solutions, WHERE, ax=ax)
    if "FedPA-ME" in solutions:
        ax.axvline(start_round, color="0.5", linewidth=1, linestyle=":")
        ax.annotate(
            "FedPA sets in",
            (start_round, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            color="0.4",
        )
    last = [s.values(WHERE)[1][-1] for seeds in solutions.values() for s in seeds]
    # The last tenths of a percent are what differs: the rise before is cut off.
    error = max(1 - min(last), 0.001)
    ax.set(ylabel="accuracy on unseen writers")
    ax.set_ylim(max(0, 1 - 4 * error), min(1, max(last) + error / 2))
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


def check(parser, args):
    """Refuses what would fail late; what the algorithms refuse, they say themselves."""
    path = pathlib.Path(args.data)
    missing = [f for f in ("train.parquet", "test.parquet") if not (path / f).is_file()]
    if path.exists() and missing:
        parser.error(f"`--data`: there is no `{missing[0]}` in {path}.")
    if not path.exists() and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", args.data):
        parser.error(f"`--data`: no such directory, and no `owner/name`: {args.data}.")
    for name in ("seeds", "rounds", "clients", "eval_every", "block_size", "devices"):
        if getattr(args, name) < 1:
            flag = name.replace("_", "-")
            parser.error(f"`--{flag}` must be at least 1, got {getattr(args, name)}.")
    for name, rate in (("client", args.client_rate), ("server", args.server_rate)):
        if rate is not None and not rate > 0:
            parser.error(f"`--{name}-rate` must be positive, got {rate}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--algorithms", nargs="+", choices=MNIST["rates"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--clients", type=int, help="clients in a round")
    parser.add_argument("--epochs", type=int, default=5, help="of the ME algorithms")
    parser.add_argument("--client-rate", type=float, help="for all algorithms")
    parser.add_argument("--server-rate", type=float, default=0.5)
    parser.add_argument("--start-round", type=int)
    parser.add_argument("--rho", type=float)
    parser.add_argument("--eval-every", type=int)
    parser.add_argument("--block-size", type=int, default=1, help="on a GPU 8 to 64")
    parser.add_argument("--devices", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    path = pathlib.Path(args.data)
    local = path.is_dir()
    choices = MNIST if local else EMNIST
    for name in ("rounds", "clients", "start_round", "rho", "eval_every"):
        if getattr(args, name) is None:
            setattr(args, name, choices[name])
    check(parser, args)
    args.output.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_num_cpu_devices", args.devices)

    # All of them before the first trains: what does not fit together says so at once.
    loss, rates, algorithms = Loss(choices["label"]), {}, {}
    for name in args.algorithms or choices["rates"]:
        rate, given = choices["rates"][name], args.client_rate
        rates[name] = rate if given is None else given
        try:
            algorithms[name] = make_algorithm(name, loss, args, rates[name])
        except ValueError as error:
            parser.error(f"{name}: {error}")
    try:
        data = mnist(path) if local else huggingface(args.data)
    except (FileNotFoundError, ConnectionError) as error:
        parser.error(
            "`--data`: no such directory, and no such dataset on the Hub: "
            f"{args.data} ({error})."
        )
    print(data[0])
    if args.clients > data[0].num_clients:
        most = data[0].num_clients
        parser.error(f"`--clients` must be at most {most}, got {args.clients}.")

    solutions, seconds = {n: [] for n in algorithms}, {n: [] for n in algorithms}
    for seed in range(args.seeds):
        for name, algorithm in algorithms.items():
            print(f"\n{name}, seed {seed}")
            solution, taken = run(algorithm, seed, data, choices["num_classes"], args)
            solutions[name].append(solution)
            seconds[name].append(taken)
            settings = vars(args) | {"rates": rates}
            save(args.output / "fedpa_mnist.json", solutions, seconds, settings)
    report(solutions, seconds, choices["targets"])
    plot(solutions, args.start_round, args.output / "fedpa_mnist.png")


if __name__ == "__main__":
    main()
