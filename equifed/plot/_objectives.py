"""Objectives of two variables as a map: their contours, their optima, and the way that
a training takes between them.

Contour lines of different clients cross, so each client has few of them, thin ones, and
none in the far corners, where they say the least: what is to be seen is around the
optima.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._check import check_count, checked, within
from .._words import shown
from ._axes import axes, COLOURS, DASHES
from ._legend import legend


_Region: TypeAlias = tuple[tuple[float, float], tuple[float, float]]
_GRID = 201  # points to a side
_TOP = 0.2  # the highest level, as a share of the way from the least value to the most
_DECADES = 2.5  # from the highest level to the lowest, if they are logarithmic
# Colours and markers of trajectories: not the first colours, which the contours have.
_PATHS = tuple(zip((COLOURS[i] for i in (6, 3, 4, 5, 2)), "osD^v", strict=True))


@checked(objectives="Give `{'client 1': f}`, for example.")
def objective_contours(
    objectives: Mapping[str, Callable[[Float[Array, " 2"]], Float[Array, ""]]],
    *,
    ax: Any = None,
    limits: Sequence[Sequence[SupportsFloat]] | None = None,
    levels: int = 10,
    log: bool = False,
    optima: bool = True,
    margin: ArrayLike = 0.75,
) -> Any:
    """Draws functions of two variables as contour lines, one colour for each.

    A star marks an optimum. The levels are each function's own: they lie between its
    least value in the figure and 20% of the way to its greatest, so that a steep client
    does not crowd out a flat one. Both axes have the same scale.

    **Arguments:**

    - `objectives`: for each label an [`equifed.objectives.AbstractObjective`][] of
        dimension 2, or any function, written in JAX, of a vector of length 2.
    - `ax`: the axes to draw on.
    - `limits`: the region `((x0, x1), (y0, y1))` to draw, to which the axes are set. By
        default a square around the optima.
    - `levels`: how many contour lines each function has.
    - `log`: whether the levels are spaced logarithmically above the least value, rather
        than evenly: for functions with a narrow valley.
    - `optima`: whether to mark the optima, of those objectives that have an `optimum()`
        and do not raise `ValueError` there because they have no single one.
    - `margin`: how far the default region goes beyond the optima, as a multiple of how
        far they are apart (of 1, if there is but one).

    **Returns:**

    The axes.

    **Raises:**

    `ValueError` if an objective is not one number of two variables, or is constant or
    not finite in the whole region; if there are no `limits` and no objective has an
    `optimum()`, which would say where to look. `TypeError` if `objectives` is not a
    mapping.

    !!! example

        ```python
        clients = {
            "client 1": lambda x: x[0] ** 2 + 3 * x[1] ** 2,
            "client 2": lambda x: (x[0] - 1) ** 2 + (x[1] - 1) ** 2,
        }
        ax = eqf.plot.objective_contours(clients, limits=((-1, 2), (-1, 2)))
        eqf.plot.trajectory(iterates, ax=ax, label="FedAvg")
        ```
    """
    if not objectives:
        raise ValueError("`objectives` is empty: give at least one labelled function.")
    levels = check_count("levels", levels)
    for label, objective in objectives.items():
        dim = getattr(objective, "dim", 2)
        if dim != 2:
            raise ValueError(
                f"Only objectives of dimension 2 can be drawn, and {label!r} has "
                f"dimension {dim}."
            )
    stars: dict[str, np.ndarray | None] = dict.fromkeys(objectives)
    if optima or limits is None:
        stars = {label: _optimum(label, f) for label, f in objectives.items()}
    if limits is None:
        known = [star for star in stars.values() if star is not None]
        region = _region(known, margin)
    else:
        region = _checked(limits)
    values = {label: _on_grid(label, f, region) for label, f in objectives.items()}

    ax = axes(ax)
    contours = importlib.import_module("matplotlib.contour").ContourSet
    # Contours that are there already keep their colours.
    before = sum(isinstance(drawn, contours) for drawn in ax.collections)
    for i, (label, value) in enumerate(values.items(), before):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        ax.contour(
            *(np.linspace(*side, _GRID) for side in region),
            value,
            levels=_levels(value, levels, log=log),
            colors=colour,
            linestyles=dash,  # or Matplotlib dashes what is below zero
            linewidths=0.9,
            alpha=0.75,
        )
        star = stars[label] if optima else None
        if star is not None:
            edge = {"edgecolors": "white", "linewidths": 0.9}
            ax.scatter(*star, s=150, marker="*", color=colour, zorder=5, **edge)
        # A line without points stands for them all in the legend.
        mark = {"marker": None if star is None else "*", "markersize": 9}
        ax.plot([], [], color=colour, linestyle=dash, label=label, **mark)
    ax.set_xlim(*region[0])
    ax.set_ylim(*region[1])
    ax.set_aspect("equal")  # or a step across the contours would not look like one
    ax.set_xlabel("$x_1$")
    ax.set_ylabel("$x_2$")
    # Long handles, or a mark hides the dashes.
    legend(ax, handlelength=3.0)
    return ax


@checked()
def trajectory(
    points: ArrayLike | Sequence[Any],
    *,
    ax: Any = None,
    label: str | None = None,
    colour: Any = None,
) -> Any:
    """Draws the way of a model of two parameters: a line with a mark for each round.

    It begins at a hollow circle and ends at a full one. The axes of
    [`equifed.plot.objective_contours`][] keep their limits.

    **Arguments:**

    - `points`: the iterates, one row of two numbers for each round.
    - `ax`: the axes to draw on, usually those of the contours.
    - `label`: its name in the legend.
    - `colour`: any colour of Matplotlib. By default black, and for further trajectories
        on the same axes another colour each.

    **Returns:**

    The axes.

    **Raises:**

    `ValueError` if `points` is not of shape `[n, 2]` with at least one row.

    !!! example

        ```python
        ax = eqf.plot.objective_contours(clients)
        eqf.plot.trajectory(fedavg, ax=ax, label="FedAvg")
        eqf.plot.trajectory(scaffold, ax=ax, label="SCAFFOLD")
        ```
    """
    try:
        path = np.asarray(points, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(
            f"`points` must be an array of numbers, got {shown(points)}."
        ) from None
    if path.ndim != 2 or path.shape[1] != 2 or len(path) == 0:
        raise ValueError(
            f"A trajectory is an array of shape [n, 2], got one of {list(path.shape)}."
        )
    ax = axes(ax)
    # Lines that are there already keep their style; those without points are the
    # contours' names.
    before = sum(len(line.get_xdata()) > 0 for line in ax.lines)
    default, marker = _PATHS[before % len(_PATHS)]
    colour = default if colour is None else colour
    effects = importlib.import_module("matplotlib.patheffects")
    ax.plot(
        *path.T,
        color=colour,
        label=label,
        linewidth=1.5,
        marker=marker,
        markersize=3.5,
        zorder=6,
        # A white rim lifts it off the contours.
        path_effects=[effects.withStroke(linewidth=3, foreground="white")],
    )
    ends = {"s": 40, "edgecolors": [colour], "linewidths": 1.5, "zorder": 7}
    ax.scatter(*path[0], facecolors="white", **ends)
    ax.scatter(*path[-1], facecolors=[colour], **ends)
    # Long handles, or a mark hides the dashes.
    legend(ax, handlelength=3.0)
    return ax


def _optimum(label: str, objective: Any) -> np.ndarray | None:
    method = getattr(objective, "optimum", None)
    if method is None:
        return None
    try:
        optimum = np.asarray(method(), dtype=float)
    except ValueError:
        return None  # that is how an objective says that it has no single optimum
    if optimum.shape != (2,) or not np.isfinite(optimum).all():
        raise ValueError(
            f"The optimum of {label!r} must be two finite numbers, got {optimum}."
        )
    return optimum


def _region(optima: list[np.ndarray], margin: ArrayLike) -> _Region:
    """A square around the optima: the ends of its two sides."""
    if not optima:
        raise ValueError(
            "None of the objectives has an `optimum()` to look around. Say where to "
            "look: `limits=((x0, x1), (y0, y1))`."
        )
    margin = float(within("margin", margin, least=0, strict=True))  # pyright: ignore
    low, high = np.min(optima, 0), np.max(optima, 0)
    side = (high - low).max()
    half = side / 2 + margin * (side if side > 0 else 1.0)
    centre = (low + high) / 2
    low, high = (centre - half).tolist(), (centre + half).tolist()
    return (low[0], high[0]), (low[1], high[1])


def _checked(limits: Sequence[Sequence[SupportsFloat]]) -> _Region:
    try:
        region = np.asarray(limits, dtype=float)
    except (TypeError, ValueError):
        region = np.empty(())
    increasing = region.shape == (2, 2) and (region[:, 0] < region[:, 1]).all()
    if not increasing or not np.isfinite(region).all():
        raise ValueError(
            f"`limits` must be ((x0, x1), (y0, y1)) with x0 < x1 and y0 < y1, got "
            f"{shown(limits)}."
        )
    return tuple(region[0].tolist()), tuple(region[1].tolist())


def _on_grid(label: str, objective: Any, region: _Region) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.linspace(*s, _GRID) for s in region)), -1)
    # A row of the grid at a time, as an objective may hold a client's whole data.
    values = jax.lax.map(jax.vmap(objective), jnp.asarray(grid, dtype=float))
    shape = getattr(values, "shape", None)
    if shape != (_GRID, _GRID):
        raise ValueError(f"{label!r} must return one number for a vector of length 2.")
    values = np.ma.masked_invalid(np.asarray(values, dtype=float))
    if values.count() == 0 or values.min() == values.max():
        raise ValueError(f"{label!r} is constant or not finite in the whole region.")
    return values


def _levels(value: np.ndarray, number: int, *, log: bool) -> np.ndarray:
    least, most = float(value.min()), float(value.max())
    steps = np.arange(1, number + 1)
    shares = 10 ** (_DECADES * (steps / number - 1)) if log else steps / number
    return least + (most - least) * _TOP * shares
