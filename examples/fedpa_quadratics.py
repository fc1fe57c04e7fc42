"""FedAvg, FedPA and mini-batch SGD on two quadratics, as a picture.

Two clients have narrow valleys that lie across each other. The mean of their objectives
is smallest near where the valleys cross, far from either client's optimum. The more a
client works on its own, the closer FedAvg comes to the mean of the two clients' optima
instead. FedPA corrects each client's step by the covariance of its posterior, and ends
around the optimum, the closer the more samples a client draws. Infinitely many samples
would give the gradient itself, which MB-SGD has here: these gradients are exact.

Objectives are clients like any others: they have examples, here one each, and go
through the same loader and the same algorithms as a real data set.

    python examples/fedpa_quadratics.py [--rounds 40] [--output .]
"""

import argparse
import pathlib

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf


# Curvatures in the two axes of each client's valley, the direction of its length, and
# where in it the client has its optimum.
CURVATURES = (0.03, 1.0)
CLIENTS = {
    "client 1": (np.deg2rad(20), (-6.0, -4.0)),
    "client 2": (np.deg2rad(75), (3.0, -5.0)),
}
START = (-5.0, 3.0)
COUNTS = (10, 100)  # local steps of FedAvg, samples of FedPA, gradients of MB-SGD

_, _, GREEN, PINK, _, _, BLACK = eqf.plot.COLOURS
COLOURS = {"MB-SGD": BLACK, "FedAvg": PINK, "FedPA": GREEN}
UNITS = {"MB-SGD": "gradients", "FedAvg": "steps", "FedPA": "samples"}


def make_problem():
    """Both clients' quadratics, of curvature A = R diag(CURVATURES) R'."""
    objectives = []
    for angle, optimum in CLIENTS.values():
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.array([[cos, -sin], [sin, cos]])
        matrix = rotation @ np.diag(CURVATURES) @ rotation.T
        objectives.append(eqf.objectives.Quadratic(matrix, matrix @ np.array(optimum)))
    return eqf.objectives.FederatedProblem(objectives)


def algorithms(loss, count):
    """The three algorithms, each with as much work a round as it makes of `count`.

    All gradients are exact here, so that those of MB-SGD are all the same.
    """
    steps = eqf.data.Steps(count, batch_size=1)
    return {
        "MB-SGD": eqf.FedSGD(loss, optax.sgd(0.5), steps),
        "FedAvg": eqf.FedAvg(loss, optax.sgd(0.5), steps),
        "FedPA": eqf.FedPA(
            loss,
            eqf.ExactGaussian(count),
            eqf.data.Epochs(1, batch_size=1),
            rho=1.0,
            server_optim=optax.sgd(0.5),
        ),
    }


def path(problem, algorithm, num_rounds):
    """The server's model, before the first round and after each: [rounds + 1, 2]."""
    sampler = eqf.data.AllClients()
    loader = eqf.data.Loader(problem.dataset(), sampler, algorithm.batching)
    state = algorithm.init(jnp.array(START), num_clients=len(problem))
    points = [START]
    rounds = eqf.rounds(algorithm, state, loader, num_rounds=num_rounds, key=jr.key(0))
    for new_state, _ in rounds:
        points.append(np.array(new_state.model))  # a copy, before it is used up
    return np.array(points)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    problem = make_problem()
    optimum = np.asarray(problem.optimum())
    paths = {
        (name, count): path(problem, algorithm, args.rounds)
        for count in COUNTS
        for name, algorithm in algorithms(problem.loss, count).items()
    }
    distances = {
        run: np.linalg.norm(points - optimum, axis=1) for run, points in paths.items()
    }

    print(f"the optimum is {optimum.round(2)}; distance from it, by round")
    shown = [r for r in (0, 5, 10, 20, 40) if r <= args.rounds]
    print(" " * 14 + "".join(f"{r:>8}" for r in shown) + "   mean of the last 10")
    for (name, count), distance in distances.items():
        row = "".join(f"{distance[r]:8.3f}" for r in shown)
        print(f"{name:>8}, {count:<4}{row}{distance[-10:].mean():12.3f}")

    plot(problem, paths, distances, args.output / "fedpa_quadratics.png")
    animate(problem, paths, args.output / "fedpa_quadratics.gif")


def draw_problem(problem, ax, title):
    """Both clients' contours, and the optimum of their mean."""
    objectives = dict(zip(CLIENTS, problem.objectives, strict=True))
    eqf.plot.objective_contours(
        objectives, ax=ax, limits=((-9, 7), (-7.2, 4.8)), levels=5, log=True
    )
    ax.set(title=title, xlabel="", ylabel="")
    star = {"marker": "*", "s": 240, "color": BLACK, "edgecolors": "white"}
    ax.scatter(*problem.optimum(), zorder=9, label="optimum of their mean", **star)


def plot(problem, paths, distances, file):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(8, 6.8), layout="constrained")
    top, bottom = figure.subfigures(2, height_ratios=(1.4, 1))
    for count, ax in zip(COUNTS, top.subplots(1, 2), strict=True):
        draw_problem(problem, ax, f"{count} steps or samples a round")
        for name, colour in COLOURS.items():
            eqf.plot.trajectory(paths[name, count], ax=ax, label=name, colour=colour)
        handles, labels = ax.get_legend_handles_labels()
        ax.get_legend().remove()
    # Row by row, although Matplotlib fills columns: clients above algorithms.
    rows = [i for pair in zip(range(3), range(3, 6), strict=True) for i in pair]
    top.legend(
        [handles[i] for i in rows],
        [labels[i] for i in rows],
        loc="outside upper center",
        ncols=3,
        frameon=False,
    )

    ax = bottom.subplots()
    for (name, count), distance in distances.items():
        label = f"{name}, {count} {UNITS[name]}"
        if name == "MB-SGD":
            if count != COUNTS[-1]:
                continue  # the same line again
            label = "MB-SGD"
        dash = "--" if count == COUNTS[0] else "-"
        ax.semilogy(distance, dash, color=COLOURS[name])
        at = (len(distance), distance[-10:].mean())
        ax.annotate(label, at, color=COLOURS[name], va="center", annotation_clip=False)
    ax.set(xlabel="round", ylabel="distance to the optimum")
    ax.set_xlim(0, len(distance) - 1)
    ax.grid(color="0.9")
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    print(f"wrote {file}")


def animate(problem, paths, file):
    import matplotlib.pyplot as plt
    from PIL import Image

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.7), layout="constrained")
    lines = {}
    for name, ax in zip(("FedAvg", "FedPA"), axes, strict=True):
        draw_problem(problem, ax, name)
        for count in COUNTS:
            few = count == COUNTS[0]
            (lines[name, count],) = ax.plot(
                *([], []),
                "o--" if few else "o-",
                color=COLOURS[name],
                markerfacecolor="white" if few else COLOURS[name],
                markersize=4.5,
                label=f"{count} {UNITS[name]}",
                zorder=8,
            )
        ax.legend(handles=ax.lines[-2:], loc="upper right", framealpha=1)
    clock = figure.suptitle("round 0")

    frames = []
    for number in range(len(paths["FedPA", COUNTS[0]])):
        for run, line in lines.items():
            line.set_data(*paths[run][: number + 1].T)
        clock.set_text(f"round {number}")
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())
        frames.append(Image.fromarray(pixels).convert("RGB"))
    # With one palette for all, frames differ only where something has moved.
    palette = frames[-1].quantize(256, Image.Quantize.MAXCOVERAGE)
    plain = Image.Dither.NONE
    first, *others = (x.quantize(palette=palette, dither=plain) for x in frames)
    milliseconds = [100] * len(others) + [1000]
    first.save(file, save_all=True, append_images=others, duration=milliseconds, loop=0)
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
