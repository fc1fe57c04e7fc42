"""The axes that every figure is drawn on, their colours and their plain dress."""

import importlib
from collections.abc import Sequence
from typing import Any, Literal


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
DASHES = ("-", "--", "-.", ":")


def axes(ax: Any) -> Any:
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


def dress(ax: Any, *, grid: Literal["both", "y"]) -> None:
    ax.grid(axis=grid, color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def turn_if_crowded(ax: Any, names: Sequence[str]) -> None:
    """Turns the names along the horizontal axis, if side by side they would touch."""
    width = ax.get_window_extent().width / ax.get_figure(root=True).dpi * 72
    # A character takes up about 6 points, and so does a space between two names.
    if 6 * max(map(len, names)) + 6 > width / len(names):
        ax.tick_params(axis="x", labelrotation=90)
