"""`equifed table`: the figures of runs, beside those that others report."""

import math
from typing import Annotated

import numpy as np

from .._bits import DOWN, UP
from .._history import names_in, ROUND
from ..recipes import Published, recipe
from ..recipes._published import measured
from .asked import parsed
from .folder import load, NONFINITE, Run
from .saved import differs


HEADS = (
    *("run", "task", "algorithm", "metric", "ours", "theirs", "MB up", "MB down"),
    "from",
)
# What is to be known of a figure, by how its run ended.
_ENDS = {
    NONFINITE: "diverged: the figure is of the last finite model",
    "nonfinite_loss": "its training loss was not finite in some rounds",
    "no_messages": "no message counted: the model is as it was",
}


def print_table(args: list[str]) -> int:
    """Prints a row for each run."""
    import tyro

    def arguments(
        runs: Annotated[
            tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(help="their folders.")
        ],
        metric: Annotated[
            str, tyro.conf.arg(help="of the runs without a figure to compare with.")
        ] = "test/accuracy",
    ) -> tuple[tuple[str, ...], str]:
        return runs, metric

    runs, metric = parsed(arguments, args, "equifed table")
    if not runs:
        raise ValueError("`RUN` must be given: the folder of at least one run.")
    found = [load(run) for run in runs]
    known = {n for run in found for history in run.histories for n in names_in(history)}
    rows = [HEADS, *(_row(run, metric, known) for run in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _row(run: Run, metric: str, known: set[str]) -> tuple[str, ...]:
    """A row; `known` are the metrics that any of the runs has."""
    found = None if run.settings.recipe is None else recipe(run.settings.recipe)
    theirs = None if found is None else found.published
    figure = theirs or Published(value=0.0, source="", metric=metric)
    if found is None:
        source = "no recipe"
    elif theirs is None:
        source = found.without
    else:
        source = theirs.source
    changed = differs(run.settings)
    if changed:
        source += f" (here with other {', '.join(changed)})"
    for result in run.results & _ENDS.keys():
        of_rounds = result == NONFINITE and figure.reaches is not None
        source += f" ({'diverged' if of_rounds else _ENDS[result]})"
    values = _values(run, figure, known)
    if figure.reaches is not None and _skipped(run, figure, values):
        source += " (not every round was evaluated: it may have been there earlier)"
    if not run.ended:
        source += " (not at its end yet)"
    return (
        *(run.name, run.settings.task, run.settings.algorithm, figure.metric),
        _ours(run, figure, values),
        "-" if theirs is None else _shown(theirs, theirs.value, theirs.spread),
        *(_megabytes(run, name) for name in (UP, DOWN)),
        source,
    )


def _values(run: Run, figure: Published, known: set[str]) -> list[float]:
    """Our figure of each seed; none of a run that has not measured its metric."""
    values = []
    for history in run.histories:
        rows = [row for row in history if figure.metric in row]
        if not rows and figure.metric in known:
            return []  # a run of another task, or one that is not evaluated yet
        if not rows:
            raise ValueError(
                f"`{run.name}` has not measured {figure.metric!r}. It has: "
                f"{', '.join(names_in(history))}."
            )
        numbers = [row[figure.metric] for row in rows]
        values.append(measured(figure, [row[ROUND] for row in rows], numbers))
    return values


def _skipped(run: Run, figure: Published, values: list[float]) -> bool:
    """Whether a round was not evaluated before the metric was seen at its level."""
    until = [None if math.isnan(value) else int(value) for value in values]
    return any(
        figure.metric not in row
        for history, stop in zip(run.histories, until, strict=False)
        for row in history[:stop]
    )


def _ours(run: Run, figure: Published, values: list[float]) -> str:
    if not values:
        return "-"
    missing = sum(map(math.isnan, values))
    if figure.reaches is not None and missing:
        where = f"in {_rounds(len(run.histories[0]))}"
        if len(values) > 1:  # a mean over the others would be of the fast ones alone
            where = f"with {missing} of {len(values)} seeds"
        return f"{figure.reaches:.4g} not reached {where}"
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return _shown(figure, float(np.mean(values)), spread)


def _megabytes(run: Run, name: str) -> str:
    """What was sent in all rounds together; of several seeds the mean."""
    each = [[row[name] for row in rows if name in row] for rows in run.histories]
    if not all(each):
        return "-"
    return f"{sum(map(sum, each)) / len(each) / 8e6:.4g}"


def _shown(figure: Published, value: float | int, spread: float | None) -> str:
    if figure.reaches is not None:
        return f"{_rounds(value, spread)} to {figure.reaches:.4g}"
    return f"{value:.4f}" if spread is None else f"{value:.4f} ± {spread:.4f}"


def _rounds(value: float | int, spread: float | None = None) -> str:
    """A number of rounds, or a mean of some."""
    number = f"{value:.1f}".removesuffix(".0")
    if spread is not None:
        return f"{number} ± {spread:.1f} rounds"
    return f"{number} round" if number == "1" else f"{number} rounds"
