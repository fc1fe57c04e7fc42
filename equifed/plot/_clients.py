"""Clients: how many examples they have, and with which labels."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .._check import check_count, checked
from .._words import listed, message
from ._axes import axes, COLOURS, dress, turn_if_crowded
from ._legend import legend


@checked()
def client_sizes(dataset: Any, *, ax: Any = None) -> Any:
    """Draws how many examples the clients have.

    Up to 60 clients are drawn as a bar each, sorted; more than that as a histogram.

    **Arguments:**

    - `dataset`: an [`equifed.data.FederatedDataset`][].
    - `ax`: the axes to draw on.

    **Returns:**

    The axes.
    """
    _check(dataset)
    ax = axes(ax)
    sizes = np.asarray(dataset.client_sizes)
    median = float(np.median(sizes))
    if len(sizes) <= 60:
        order = np.argsort(-sizes, kind="stable")
        ax.bar(np.arange(len(sizes)), sizes[order], color=COLOURS[0], width=0.8)
        _name_clients(ax, [str(dataset.client_ids[i]) for i in order])
        ax.axhline(median, color=COLOURS[1], linestyle="--", label=f"median {median:g}")
        ax.set_ylabel("examples")
        ax.set_ylim(0, sizes.max() * 1.18 + 1)  # room for the legend
        dress(ax, grid="y")
    else:
        ax.hist(sizes, bins="auto", color=COLOURS[0], edgecolor="white", linewidth=0.4)
        ax.axvline(median, color=COLOURS[1], linestyle="--", label=f"median {median:g}")
        ax.set_xlabel("examples of a client")
        ax.set_ylabel("clients")
        ax.set_ylim(0, ax.get_ylim()[1] * 1.12)
        dress(ax, grid="y")
    ax.set_title(f"{len(sizes):,} clients, {sizes.sum():,} examples")
    ax.legend(loc="upper right", frameon=False)
    return ax


@checked()
def label_distribution(
    dataset: Any,
    *,
    label: str = "label",
    ax: Any = None,
    max_clients: int = 30,
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
    _check(dataset)
    number = min(check_count("max_clients", max_clients), dataset.num_clients)
    clients = np.unique(np.linspace(0, dataset.num_clients - 1, number).astype(int))
    labels = [_labels_of(dataset, int(i), label) for i in clients]
    classes = np.unique(np.concatenate(labels))
    counts = np.stack([(y[:, None] == classes).sum(0) for y in labels])

    ax = axes(ax)
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
    dress(ax, grid="y")
    if len(classes) <= 30:
        legend(ax, reverse=True, title=label)  # from top to bottom, as in the bars
    return ax


def _check(dataset: Any) -> None:
    if getattr(dataset, "client_sizes", None) is None:
        raise TypeError(message("dataset", "a `FederatedDataset`", dataset))


def _labels_of(dataset: Any, client: int, label: str) -> np.ndarray:
    columns = dataset.client(client)
    if label not in columns:
        raise ValueError(
            f"There is no column {label!r}. The columns are: {listed(columns)}."
        )
    labels = np.asarray(columns[label])
    if labels.ndim != 1:
        raise ValueError(
            f"The column {label!r} holds arrays of shape {labels.shape[1:]}, not one "
            "label for each example."
        )
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError(
            f"The column {label!r} of client {dataset.client_ids[client]!r} holds NaN "
            f"in row {int(np.isnan(labels).argmax())}, which is no label."
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
    turn_if_crowded(ax, names)
