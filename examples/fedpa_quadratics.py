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

DETAIL = ((1.4, 5.0), (-2.8, -0.1))  # around the optimum; drawn once more, larger

_, _, GREEN, PINK, YELLOW, _, BLACK = eqf.plot.COLOURS
COLOURS = {"MB-SGD": BLACK, "FedAvg": PINK, "FedPA": GREEN}
WIDTHS = {"MB-SGD": 0.8, "FedAvg": 1.2, "FedPA": 1.6}
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
            eqf.posterior.ExactGaussian(count),
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


def shrinkage_bias(problem, count, draws=200_000):
    """How far from the optimum FedPA's messages (rho = 1) vanish on average.

    The samples' mean and covariance are independent, so the mean message of a client is
    E[M] (mu - x) with M = count (I + W)^-1, W the samples' scatter: a Wishart matrix,
    drawn by Bartlett's decomposition.
    """
    rng, matrix, linear = np.random.default_rng(0), 0.0, 0.0
    for objective in problem.objectives:
        root = np.linalg.cholesky(np.linalg.inv(np.asarray(objective.matrix, float)))
        factor = np.zeros((draws, 2, 2))
        factor[:, 0, 0] = np.sqrt(rng.chisquare(count - 1, draws))
        factor[:, 1, 1] = np.sqrt(rng.chisquare(count - 2, draws))
        factor[:, 1, 0] = rng.standard_normal(draws)
        factor = root @ factor
        scatter = factor @ factor.transpose(0, 2, 1)
        mean = count * np.linalg.inv(np.eye(2) + scatter).mean(0)
        matrix = matrix + mean
        linear = linear + mean @ np.asarray(objective.optimum())
    return np.linalg.norm(np.linalg.solve(matrix, linear) - problem.optimum())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."))
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"`--rounds` must be at least 1, got {args.rounds}.")
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
        print(f"{name:>8}, {count:<4}{row}{distance[1:][-10:].mean():12.3f}")

    for count in COUNTS:
        bias = shrinkage_bias(problem, count)
        print(f"FedPA's mean message vanishes {bias:.3f} away: {count} samples")

    plot(problem, paths, distances, args.output / "fedpa_quadratics.png")
    animate(problem, paths, args.output / "fedpa_quadratics.gif")


def draw_problem(problem, ax, title):
    """Both clients' contours and optima, and the optimum of their mean."""
    labels = [f"{name}: contours, optimum" for name in CLIENTS]
    objectives = dict(zip(labels, problem.objectives, strict=True))
    eqf.plot.objective_contours(
        objectives, ax=ax, limits=((-9, 7), (-7.2, 4.8)), levels=5, log=True
    )
    ax.set(title=title, xticks=range(-8, 7, 2), yticks=range(-6, 5, 2))
    star = {"marker": "*", "s": 240, "color": YELLOW, "edgecolors": BLACK}
    ax.scatter(*problem.optimum(), zorder=9, label="optimum of their mean", **star)


def draw_paths(paths, count, ax, marks=None):
    """The three paths, the widest below, for MB-SGD and FedPA lie on each other."""
    for name, width in WIDTHS.items():
        eqf.plot.trajectory(paths[name, count], ax=ax, label=name, colour=COLOURS[name])
        line, ends = ax.lines[-1], ax.collections[-2:]
        line.set(linewidth=width, markersize=2 + width / 2, path_effects=[])
        line.set_markevery(marks)
        for drawn in (line, *ends):
            drawn.set_zorder(8 - width)
        for end in ends:
            end.set_sizes([16 * width])


def plot(problem, paths, distances, file):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(8, 10), layout="constrained")
    top, bottom = figure.subfigures(2, height_ratios=(2.8, 1))
    maps, details = top.subplots(2, 2)
    for count, ax, detail in zip(COUNTS, maps, details, strict=True):
        draw_problem(problem, ax, f"{count} steps or samples a round")
        draw_paths(paths, count, ax, marks=slice(11))  # later, they cover each other
        handles, labels = ax.get_legend_handles_labels()
        (left, right), (low, high) = DETAIL
        ax.indicate_inset((left, low, right - left, high - low), edgecolor=BLACK)
        draw_problem(problem, detail, "the same, around the optimum")
        detail.collections[-1].set_zorder(5)  # the star: below the paths that end in it
        draw_paths(paths, count, detail)
        detail.set(xlim=DETAIL[0], ylim=DETAIL[1], xticks=range(2, 6), yticks=(-2, -1))
        for drawn in (ax, detail):
            drawn.get_legend().remove()
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
        at = (len(distance) - 1, distance[-1])
        ax.annotate(
            label,
            at,
            xytext=(6, 0),
            textcoords="offset points",
            color=COLOURS[name],
            va="center",
            annotation_clip=False,
        )
    ax.set(xlabel="round", ylabel="distance to the optimum")
    ax.set_xlim(0, len(distance) - 1)
    ax.grid(color="0.9")
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    print(f"wrote {file}")


def animate(problem, paths, file):
    import matplotlib.pyplot as plt
    from PIL import Image

    figure, axes = plt.subplots(1, 2, figsize=(8, 4.1), layout="constrained")
    lines = {}
    for name, ax in zip(("FedAvg", "FedPA"), axes, strict=True):
        draw_problem(problem, ax, name)
        handles, labels = ax.get_legend_handles_labels()
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
    below = {"loc": "outside lower center", "ncols": 3, "frameon": False}
    figure.legend(handles, labels, **below)
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
