"""Which classes are taken for which."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from .._check import checked
from .._metrics import AbstractMetric
from .._words import shown
from ._axes import axes, turn_if_crowded


_MOST = 20  # so many classes have room for their numbers


@checked()
def confusion_matrix(
    counts: Any,
    *,
    classes: Sequence[Any] | None = None,
    normalize: bool = False,
    ax: Any = None,
) -> Any:
    """Draws how often an example of one class was taken for another.

    A row is the class of the examples, a column what they were taken for. Up to 20
    classes have their numbers written in; more have a colour bar.

    **Arguments:**

    - `counts`: the value of an [`equifed.ConfusionMatrix`][] in what
        [`equifed.evaluate`][] returns or in a history; or such a metric.
    - `classes`: the names of the classes, in the order of their numbers, which are the
        names if not given.
    - `normalize`: whether to draw the shares of each row in place of counts. The row of
        a class without examples is left blank.
    - `ax`: the axes to draw on.

    **Returns:**

    The axes.

    **Raises:**

    `ValueError` if `counts` is not a square matrix of finite numbers of at least 0, or
    there is not one name for each class.

    !!! example

        ```python
        found = eqf.evaluate(model, dataset, metrics)
        eqf.plot.confusion_matrix(found["confusion"], normalize=True)
        ```
    """
    counts = _square(counts)
    number = len(counts)
    names = [str(name) for name in (range(number) if classes is None else classes)]
    if len(names) != number:
        raise ValueError(
            f"`classes` must be {number} names, one for each class, got {len(names)}."
        )
    values = counts
    if normalize:
        totals = counts.sum(1, keepdims=True)
        values = np.divide(
            counts, totals, out=np.full_like(counts, np.nan), where=totals > 0
        )
    most = 1.0 if normalize else max(float(counts.max()), 1.0)

    ax = axes(ax)
    image = ax.imshow(values, cmap="Blues", vmin=0.0, vmax=most)
    ax.set_facecolor("0.9")  # where there is no share
    if number <= _MOST:
        _write(ax, values, most, normalize=normalize)
    else:
        label = "share of the class" if normalize else "examples"
        # It takes its room from these axes.
        ax.get_figure().colorbar(image, ax=ax, label=label)
    _name(ax, names)
    ax.set_xlabel("taken for")
    ax.set_ylabel("class")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax


def _square(counts: Any) -> Float[np.ndarray, "classes classes"]:
    given = counts.compute() if isinstance(counts, AbstractMetric) else counts
    matrix: np.ndarray
    try:
        matrix = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        matrix = np.empty((0, 0))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ValueError(
            "`counts` must be a square matrix, the value of a `ConfusionMatrix`, got "
            f"{shown(counts)}."
        )
    if not (np.isfinite(matrix).all() and (matrix >= 0).all()):
        row, column = np.argwhere(~(np.isfinite(matrix) & (matrix >= 0)))[0]
        raise ValueError(
            "`counts` must be finite numbers of at least 0, got "
            f"{matrix[row, column]:g} in row {row}, column {column}. A "
            "`ConfusionMatrix` is NaN if some example's label has no logit."
        )
    return matrix


def _write(
    ax: Any,
    values: Float[np.ndarray, "classes classes"],
    most: float,
    *,
    normalize: bool,
) -> None:
    size = min(9.0, 75.0 / len(values))
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        text = f"{value:.2f}" if normalize else f"{value:,.6g}"
        colour = "white" if value > 0.6 * most else "0.2"
        ax.text(
            column, row, text, color=colour, fontsize=size, ha="center", va="center"
        )


def _name(ax: Any, names: Sequence[str]) -> None:
    """Names the classes, or every so many of them if there are many."""
    places = np.arange(0, len(names), 1 + (len(names) - 1) // _MOST)
    some = [names[i] for i in places.tolist()]
    ax.set_xticks(places, some)
    ax.set_yticks(places, some)
    turn_if_crowded(ax, some)
