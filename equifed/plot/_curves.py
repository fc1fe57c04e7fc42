"""Curves: a metric of one training or several over rounds, time or what was sent."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from .._check import check_count, checked
from .._history import check_known, names_in, ROUND
from ._axes import axes, COLOURS, DASHES, dress
from ._legend import legend


@checked(runs="Give `{'FedAvg': solution}`, for example.")
def learning_curves(
    runs: Mapping[str, Any],
    metric: str,
    *,
    x: Literal["round", "seconds", "hours", "bytes"] = "round",
    ax: Any = None,
    band: Literal["range", "std", "none"] = "range",
    smooth: int = 1,
    log: bool = False,
) -> Any:
    """Draws a metric over rounds, time or bytes, one line for each run.

    A run over several seeds is drawn as its mean, in a band that shows how far the
    seeds are apart.

    **Arguments:**

    - `runs`: for each label an [`equifed.Solution`][], or a list of them: the same
        training with several seeds.
    - `metric`: its name in the history, such as `"loss"` or `"test/accuracy"`. Rounds
        that lack it are skipped; where it is NaN, as the loss of a round in which
        nobody took part, the line has a gap.
    - `x`: what lies along the horizontal axis: the `"round"`; the virtual time at its
        end, in `"seconds"` or `"hours"`, of runs whose loader has a clock; or the
        `"bytes"` that were sent up and down until then, with those to clients that a
        clock left out. Several seeds are drawn where all have come to, and between
        their measurements as the straight lines that one is drawn with.
    - `ax`: the axes to draw on.
    - `band`: `"range"` is from the lowest to the highest seed, `"std"` one standard
        deviation to each side of the mean.
    - `smooth`: draw the mean of so many measurements in place of each; for training
        losses, which jump with the cohort.
    - `log`: whether the vertical axis is logarithmic.

    **Returns:**

    The axes.

    **Raises:**

    `ValueError` if a run has no such metric, or runs under one label have no round in
    common, or no `"seconds"`, if that is what `x` asks for; `TypeError` if `runs` is
    not a mapping of solutions, or a value of the metric is not a number.

    !!! example

        ```python
        ax = eqf.plot.learning_curves(
            {"FedAvg": fedavg, "SCAFFOLD": [scaffold_0, scaffold_1, scaffold_2]},
            "test/accuracy",
        )
        ax.figure.savefig("curves.png")
        ```
    """
    smooth = check_count("smooth", smooth)
    if not runs:
        raise ValueError("`runs` is empty: give at least one labelled run.")
    curves = {
        label: _over_seeds(
            label, list(run) if isinstance(run, Sequence) else [run], metric, x
        )
        for label, run in runs.items()
    }
    ax = axes(ax)
    # Lines that are there already keep their colours: several metrics share axes.
    for i, (label, (along, values)) in enumerate(curves.items(), len(ax.lines)):
        values = _smoothed(values, smooth)
        with np.errstate(invalid="ignore"):  # of two infinities
            mean = values.mean(0)
        style = {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": DASHES[(i % len(COLOURS) + i // len(COLOURS)) % len(DASHES)],
        }
        # A point between two gaps is no line.
        dots = list(range(len(along))) if len(along) <= 25 else _lonely(mean)
        marker = "o" if dots else None
        ax.plot(
            *(along, mean),
            label=label,
            marker=marker,
            markevery=dots or None,
            markersize=4,
            **style,
        )
        if len(values) > 1 and band != "none":
            if band == "std":
                with np.errstate(invalid="ignore"):  # NaN where a seed has diverged
                    spread = values.std(0)
                low, high = mean - spread, mean + spread
            else:
                low, high = values.min(0), values.max(0)
            ax.fill_between(
                along, low, high, color=style["color"], alpha=0.18, linewidth=0
            )
    if log:
        ax.set_yscale("log")
    ax.set_xlabel(_LABELS.get(x, x))
    ax.set_ylabel(metric.replace("/", " ").replace("_", " "))
    if x == "round":
        ax.xaxis.get_major_locator().set_params(integer=True)
    ax.margins(x=0.02)
    dress(ax, grid="both")
    if len(ax.lines) > 1:
        legend(ax)
    return ax


_LABELS = {"seconds": "virtual seconds", "hours": "virtual hours"}
_SENT = ("bits_up", "bits_down", "bits_wasted")


def _over_seeds(
    label: str, seeds: list[Any], metric: str, x: str
) -> tuple[np.ndarray, np.ndarray]:
    """Where along the axis the rounds lie at which every seed was measured, and the
    seeds' values there."""
    if not seeds:
        raise ValueError(f"The list of runs for {label!r} is empty.")
    curves, places = [], []
    for seed in seeds:
        if getattr(seed, "history", None) is None:
            raise TypeError(
                f"The run {label!r} must be an `equifed.Solution`, or a list of them, "
                f"got a `{type(seed).__name__}`."
            )
        check_known(metric, names_in(seed.history), f"The run {label!r}")
        curve = {
            row[ROUND]: _number(row[metric], label, metric)
            for row in seed.history
            if metric in row
        }
        curves.append(curve)
        places.append(_along(label, seed.history, x))
    if x != "round" and len(seeds) > 1:
        return _at_equal_places(label, curves, places)
    rounds = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not rounds:
        raise ValueError(
            f"The runs for {label!r} have no round in common at which {metric!r} was "
            "measured. Draw them under labels of their own."
        )
    values = [[curve[r] for r in rounds] for curve in curves]
    return np.asarray([places[0][r] for r in rounds]), np.asarray(values)


def _at_equal_places(
    label: str, curves: list[dict[int, float]], places: list[dict[int, float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Of seeds whose rounds lie at other places the values at the same ones."""
    own = [
        np.asarray([place[r] for r in curve])
        for curve, place in zip(curves, places, strict=True)
    ]
    first, last = max(x[0] for x in own), min(x[-1] for x in own)
    along = np.unique(np.concatenate(own))
    along = along[(along >= first) & (along <= last)]
    if len(along) == 0:
        raise ValueError(
            f"The runs for {label!r} have no stretch in common. Draw them under labels "
            "of their own."
        )
    values = [
        np.interp(along, x, list(curve.values()))
        for x, curve in zip(own, curves, strict=True)
    ]
    return along, np.stack(values)


def _along(label: str, history: Sequence[Any], x: str) -> dict[int, float]:
    """Where each round of a history lies along the horizontal axis."""
    if x == "round":
        return {row[ROUND]: float(row[ROUND]) for row in history}
    if x == "bytes":
        check_known("bits_up", names_in(history), f"The run {label!r}")
        sent = [sum(row.get(name, 0) for name in _SENT) / 8 for row in history]
        return dict(zip((r[ROUND] for r in history), np.cumsum(sent), strict=True))
    check_known("seconds", names_in(history), f"The run {label!r}")
    unit = 3600 if x == "hours" else 1
    return {row[ROUND]: row["seconds"] / unit for row in history}


def _lonely(values: np.ndarray) -> list[int]:
    """The places of numbers that have none beside them."""
    there = np.pad(np.isfinite(values), 1)
    return np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:]).tolist()


def _number(value: Any, label: str, metric: str) -> float:
    try:
        if np.ndim(value) == 0:
            return float(value)
    except (TypeError, ValueError):
        pass
    raise TypeError(
        f"The metric {metric!r} of the run {label!r} must be a number in each round, "
        f"got {value!r:.99}."
    )


def _smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` values, or of as many as there are."""
    # Not differences of a running sum: those forget small values after large ones, and
    # everything after one that is not finite.
    means = [
        values[:, max(0, end - window) : end].mean(1)
        for end in range(1, values.shape[1] + 1)
    ]
    return np.stack(means, 1)
