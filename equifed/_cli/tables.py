"""`equifed table`: the figures of runs, beside those that others report."""

from typing import Annotated

import numpy as np

from .._bits import DOWN, UP
from .._history import names_in, ROUND
from ..recipes import Published, recipe
from ..recipes._recipe import measured
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
        source += f" ({_ENDS[result]})"
    if not run.ended:
        source += " (not at its end yet)"
    return (
        *(run.name, run.settings.task, run.settings.algorithm, figure.metric),
        _ours(run, figure, known),
        "-" if theirs is None else _shown(theirs.value, theirs.spread),
        *(_megabytes(run, name) for name in (UP, DOWN)),
        source,
    )


def _ours(run: Run, figure: Published, known: set[str]) -> str:
    values = []
    for history in run.histories:
        rows = [row for row in history if figure.metric in row]
        if not rows and figure.metric in known:
            return "-"  # a run of another task, or one that is not evaluated yet
        if not rows:
            raise ValueError(
                f"`{run.name}` has not measured {figure.metric!r}. It has: "
                f"{', '.join(names_in(history))}."
            )
        numbers = [row[figure.metric] for row in rows]
        values.append(measured(figure, [row[ROUND] for row in rows], numbers))
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return _shown(float(np.mean(values)), spread)


def _megabytes(run: Run, name: str) -> str:
    """What was sent in all rounds together; of several seeds the mean."""
    each = [[row[name] for row in rows if name in row] for rows in run.histories]
    if not all(each):
        return "-"
    return f"{sum(map(sum, each)) / len(each) / 8e6:.4g}"


def _shown(value: float, spread: float | None) -> str:
    return f"{value:.4f}" if spread is None else f"{value:.4f} ± {spread:.4f}"
