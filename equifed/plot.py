"""Figures of federated trainings and of federated data.

Every function draws on Matplotlib axes, yours (`ax=...`) or those of a new figure, and
returns them, so that what it does not offer is one Matplotlib call away. Nothing is
shown, and no setting of Matplotlib is changed.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart too;
lines differ in dash and marker as well.
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np


# Okabe and Ito (2008), without the yellow, which is too faint for a line on white.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
_DASHES = ("-", "--", "-.", ":")


def learning_curves(
    runs: Mapping[str, Any],
    metric: str,
    *,
    ax: Any = None,
    band: Literal["range", "std", "none"] = "range",
    smooth: int = 1,
    log: bool = False,
) -> Any:
    """Draws a metric over rounds, one line for each run.

    A run over several seeds is drawn as its mean, in a band that shows how far the
    seeds are apart.

    **Arguments:**

    - `runs`: for each label an [`equifed.Solution`][], or a list of them: the same
        training with several seeds.
    - `metric`: its name in the history, such as `"loss"` or `"test/accuracy"`. Rounds
        that lack it are skipped.
    - `ax`: the axes to draw on.
    - `band`: `"range"` is from the lowest to the highest seed, `"std"` one standard
        deviation to each side of the mean.
    - `smooth`: draw the mean of so many measurements in place of each; for training
        losses, which jump with the cohort.
    - `log`: whether the vertical axis is logarithmic.

    **Returns:**

    The axes.

    **Raises:**

    `ValueError` if a run has no such metric.

    !!! example

        ```python
        ax = eqf.plot.learning_curves(
            {"FedAvg": fedavg, "SCAFFOLD": [scaffold_0, scaffold_1, scaffold_2]},
            "test/accuracy",
        )
        ax.figure.savefig("curves.png")
        ```
    """
    if smooth < 1:
        raise ValueError(f"`smooth` must be at least 1, got {smooth}.")
    if not runs:
        raise ValueError("`runs` is empty: give at least one labelled run.")
    ax = _axes(ax)
    # Lines that are there already keep their colours: several metrics share axes.
    for i, (label, run) in enumerate(runs.items(), len(ax.lines)):
        seeds = list(run) if isinstance(run, Sequence) else [run]
        rounds, values = _over_seeds(label, seeds, metric)
        values = _smoothed(values, smooth)
        mean = values.mean(0)
        style = {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": _DASHES[(i % len(COLOURS) + i // len(COLOURS)) % len(_DASHES)],
        }
        marker = "o" if len(rounds) <= 25 else None
        ax.plot(rounds, mean, label=label, marker=marker, markersize=4, **style)
        if len(seeds) > 1 and band != "none":
            if band == "std":
                low, high = mean - values.std(0), mean + values.std(0)
            else:
                low, high = values.min(0), values.max(0)
            ax.fill_between(
                rounds, low, high, color=style["color"], alpha=0.18, linewidth=0
            )
    if log:
        ax.set_yscale("log")
    ax.set_xlabel("round")
    ax.set_ylabel(metric.replace("/", " ").replace("_", " "))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.margins(x=0.02)
    _dress(ax, grid="both")
    if len(ax.lines) > 1:
        # Beside the axes: there it covers no line, whatever the lines do.
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return ax


def client_sizes(dataset: Any, *, ax: Any = None) -> Any:
    """Draws how many examples the clients have.

    Up to 60 clients are drawn as a bar each, sorted; more than that as a histogram.

    **Arguments:**

    - `dataset`: an [`equifed.data.FederatedDataset`][].
    - `ax`: the axes to draw on.

    **Returns:**

    The axes.
    """
    ax = _axes(ax)
    sizes = np.asarray(dataset.client_sizes)
    median = float(np.median(sizes))
    if len(sizes) <= 60:
        order = np.argsort(-sizes, kind="stable")
        ax.bar(np.arange(len(sizes)), sizes[order], color=COLOURS[0], width=0.8)
        _name_clients(ax, [str(dataset.client_ids[i]) for i in order])
        ax.axhline(median, color=COLOURS[1], linestyle="--", label=f"median {median:g}")
        ax.set_ylabel("examples")
        ax.set_ylim(0, sizes.max() * 1.18 + 1)  # room for the legend
        _dress(ax, grid="y")
    else:
        ax.hist(sizes, bins="auto", color=COLOURS[0], edgecolor="white", linewidth=0.4)
        ax.axvline(median, color=COLOURS[1], linestyle="--", label=f"median {median:g}")
        ax.set_xlabel("examples of a client")
        ax.set_ylabel("clients")
        ax.set_ylim(0, ax.get_ylim()[1] * 1.12)
        _dress(ax, grid="y")
    ax.set_title(f"{len(sizes):,} clients, {sizes.sum():,} examples")
    ax.legend(loc="upper right", frameon=False)
    return ax


def label_distribution(
    dataset: Any, *, label: str = "label", ax: Any = None, max_clients: int = 30
) -> Any:
    """Draws which labels the clients have: a stacked bar for each client.

    **Arguments:**

    - `dataset`: an [`equifed.data.FederatedDataset`][].
    - `label`: the column of the labels.
    - `ax`: the axes to draw on.
    - `max_clients`: draw no more than so many clients, evenly spread over the
        population.

    **Returns:**

    The axes.

    **Raises:**

    `ValueError` if there is no such column or it does not hold one label an example.
    """
    if max_clients < 1:
        raise ValueError(f"`max_clients` must be at least 1, got {max_clients}.")
    number = min(max_clients, dataset.num_clients)
    clients = np.unique(np.linspace(0, dataset.num_clients - 1, number).astype(int))
    labels = [_labels_of(dataset, int(i), label) for i in clients]
    classes = np.unique(np.concatenate(labels))
    counts = np.stack([(y[:, None] == classes).sum(0) for y in labels])

    ax = _axes(ax)
    below = np.zeros(len(clients), int)
    for j, colour in enumerate(_class_colours(len(classes))):
        ax.bar(
            np.arange(len(clients)),
            counts[:, j],
            bottom=below,
            color=colour,
            width=0.85,
            edgecolor="white",
            linewidth=0.4,
            label=str(classes[j]),
        )
        below = below + counts[:, j]
    _name_clients(ax, [str(dataset.client_ids[i]) for i in clients])
    ax.set_ylabel("examples")
    ax.set_ylim(0, below.max() * 1.05 + 1)
    if len(clients) < dataset.num_clients:
        ax.set_title(f"{len(clients)} of {dataset.num_clients:,} clients")
    _dress(ax, grid="y")
    if len(classes) <= 30:
        handles, names = ax.get_legend_handles_labels()
        ax.legend(
            handles[::-1],  # from top to bottom, as in the bars
            names[::-1],
            title=label,
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            frameon=False,
            ncols=1 + (len(classes) - 1) // 15,
        )
    return ax


def _axes(ax: Any) -> Any:
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")  # slow to import
    except ImportError as error:
        raise ImportError(
            "`equifed.plot` needs Matplotlib, which is not installed. Run "
            '`pip install "equifed[plot]"`.'
        ) from error
    if ax is not None:
        return ax
    figure = pyplot.figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    return figure.add_subplot()


def _over_seeds(
    label: str, seeds: list[Any], metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """The rounds at which every seed was measured, and the seeds' values there."""
    if not seeds:
        raise ValueError(f"The list of runs for {label!r} is empty.")
    curves = []
    for seed in seeds:
        curve = {row["round"]: row[metric] for row in seed.history if metric in row}
        if not curve:
            known = sorted({key for row in seed.history for key in row} - {"round"})
            raise ValueError(
                f"The run {label!r} has no metric {metric!r}. It has: "
                f"{', '.join(known) or 'none'}."
            )
        curves.append(curve)
    rounds = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not rounds:
        raise ValueError(
            f"The runs for {label!r} have no round in common at which {metric!r} was "
            "measured. Draw them under labels of their own."
        )
    values = [[float(curve[r]) for r in rounds] for curve in curves]
    return np.asarray(rounds), np.asarray(values)


def _smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` values, or of as many as there are."""
    sums = np.cumsum(values, 1)
    before = np.pad(sums, ((0, 0), (window, 0)))[:, : values.shape[1]]
    return (sums - before) / np.minimum(np.arange(values.shape[1]) + 1, window)


def _labels_of(dataset: Any, client: int, label: str) -> np.ndarray:
    columns = dataset.client(client)
    if label not in columns:
        raise ValueError(
            f"There is no column {label!r}. The columns are: {', '.join(columns)}."
        )
    labels = np.asarray(columns[label])
    if labels.ndim != 1:
        raise ValueError(
            f"The column {label!r} holds arrays of shape {labels.shape[1:]}, not one "
            "label for each example."
        )
    return labels


def _class_colours(number: int) -> Iterator[Any]:
    if number <= len(COLOURS):
        return iter(COLOURS[:number])
    import matplotlib

    return iter(matplotlib.colormaps["viridis"](np.linspace(0, 1, number)))


def _name_clients(ax: Any, names: Iterable[str]) -> None:
    names = list(names)
    crowded = len(names) > 30
    ax.set_xlabel("client")
    ax.set_xlim(-0.6, len(names) - 0.4)
    if crowded or max(map(len, names)) > 24:
        ax.set_xticks([])
        return
    ax.set_xticks(np.arange(len(names)), names)
    if sum(map(len, names)) > 40:
        ax.tick_params(axis="x", labelrotation=90, labelsize="small")


def _dress(ax: Any, *, grid: Literal["both", "y"]) -> None:
    ax.grid(axis=grid, color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
