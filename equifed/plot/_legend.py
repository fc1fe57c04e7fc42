"""Legends that cover nothing: neither a line of their own axes, nor the axes beside.

A legend stands to the right of its axes. Where the figure has a layout engine, that
makes the room. A figure without one leaves each of the axes where it is, and what
stands beside one may stand on another: there the axes give up a part of their own
room. Where that would leave too little of them, the legend goes inside, in lines and
letters that are small enough for it.
"""

import math
import textwrap
from typing import Any


_BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "frameon": False}
# Of their room the axes keep at least so much; with less the legend goes inside.
_KEPT = 0.35
# A legend inside takes at most so much of their width, and of their height: less where
# a layout engine may yet make them smaller.
_OF_AXES, _OF_LAID_OUT = 0.9, 0.8


def legend(ax: Any, *, reverse: bool = False, **options: Any) -> None:
    """Draws the legend of all that has a label on the axes, if anything has.

    **Arguments:**

    - `reverse`: whether the last label comes first, as bars are stacked.
    - `options`: what else to tell Matplotlib's `legend`.
    """
    handles, names = ax.get_legend_handles_labels()
    if not names:
        return
    if reverse:
        handles, names = handles[::-1], names[::-1]
    figure, root = ax.get_figure(), ax.get_figure(root=True)
    renderer = root.canvas.get_renderer()
    room = _room(ax, figure, renderer)
    options = {**_BESIDE, **options}
    made = ax.legend(handles, names, **options)
    # Longer than the axes are high, it would stand on what is below.
    high, most = made.get_window_extent(renderer).height, ax.get_window_extent().height
    if high > most > 0:
        options["ncols"] = min(math.ceil(high / most), len(names))
        made = ax.legend(handles, names, **options)
    extent = made.get_window_extent(renderer)
    wide = (extent.x1 - ax.get_window_extent().x1) / figure.bbox.width
    engine = figure.get_layout_engine()
    if room.width - wide < _KEPT * room.width:
        if engine is None:
            ax.set_position(room)
        _inside(ax, handles, names, options)
    elif engine is None:
        ax.set_position([room.x0, room.y0, room.width - wide, room.height])
    elif ax.get_aspect() != "auto" and len(root.axes) > 1:
        # Axes of a fixed shape find their place in steps, one for each drawing.
        for _ in range(3):
            engine.execute(root)


def _inside(ax: Any, handles: list, names: list[str], options: dict[str, Any]) -> None:
    """Draws the legend where it covers least of its axes, and no larger than they."""
    inside = {"loc": "best", "bbox_to_anchor": None, "frameon": True}
    options = {**options, **inside}
    made = ax.legend(handles, names, **options)
    made.set_in_layout(False)  # It needs no room beside that of the axes.
    part = _OF_AXES
    if ax.get_figure().get_layout_engine() is not None:
        part = _OF_LAID_OUT
        ax.get_figure(root=True).draw_without_rendering()  # It gives the axes theirs.
    most = ax.get_window_extent()
    wide = made.get_window_extent().width
    if wide > part * most.width and options.get("ncols", 1) == 1:
        # Long names have several lines, of as many letters as there is room for.
        letters = int(max(map(len, names)) * part * most.width / wide) - 4
        names = [textwrap.fill(name, max(letters, 12)) for name in names]
        made = ax.legend(handles, names, **options)
    for _ in range(3):  # Letters have whole sizes: it may need more than one time.
        taken = made.get_window_extent()
        share = part * min(most.width / taken.width, most.height / taken.height)
        if not 0 < share < 1:
            break
        size = share * made.get_texts()[0].get_fontsize()
        made = ax.legend(handles, names, **{**options, "fontsize": size})
    made.set_in_layout(False)


def _room(ax: Any, figure: Any, renderer: Any) -> Any:
    """The part of the figure that is the axes' own, with the legend that they have."""
    room = ax.get_position(original=True).frozen()
    made = ax.get_legend()
    if made is not None:
        extent = made.get_window_extent(renderer)
        right = extent.transformed(figure.transSubfigure.inverted()).x1
        room.x1 = max(room.x1, right)
    return room
