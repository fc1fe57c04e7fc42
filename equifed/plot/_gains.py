"""Clients before and after: what a method gives each of them."""

from typing import Any

import numpy as np

from .._check import checked
from .._evaluate import ClientComparison
from .._words import listed, shown
from ._axes import axes, COLOURS, dress
from ._legend import legend


_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@checked(comparison="Make one with `equifed.ClientComparison`.")
def client_gains(
    comparison: ClientComparison, *, baseline: str | None = None, ax: Any = None
) -> Any:
    """Draws a dot for each client: the metric under a baseline, and under the others.

    On the line nothing has changed; on the shaded side of it the client has gained.
    Dots of clients that were not trained with are hollow. The legend says which share
    of the clients gains, and how many have no dot: of these the metric is not known.

    **Arguments:**

    - `comparison`: the evaluations of an [`equifed.ClientComparison`][].
    - `baseline`: the name of the one along the horizontal axis; the comparison's first
        baseline if not given.
    - `ax`: the axes to draw on.

    **Returns:**

    The axes.

    **Raises:**

    `ValueError` if there is no baseline of that name, or nothing to draw beside it.
    """
    found = comparison.found
    if baseline is None:
        if not comparison.baselines:
            raise ValueError(
                "The comparison has no baseline. Say which one is along the horizontal "
                f"axis: `baseline=` one of {listed(found)}."
            )
        baseline = comparison.baselines[0]
    if baseline not in found:
        raise ValueError(
            f"`baseline` must be the name of an evaluation, got {shown(baseline)}. "
            f"There are: {listed(found)}."
        )
    others = [name for name in found if name != baseline]
    pairs = {name: comparison.matched(name, baseline) for name in others}
    ends = np.concatenate([np.zeros(0), *(x for p in pairs.values() for x in p[1:])])
    ends = ends[np.isfinite(ends)]
    if not ends.size:
        raise ValueError(
            f"There is no client to draw that has the metric under {baseline!r} and "
            "under another evaluation."
        )
    ax = axes(ax)
    low, high = float(ends.min()), float(ends.max())
    room = 0.05 * (high - low) or 0.05
    line = np.array([low - room, high + room])
    ax.plot(line, line, color="0.6", linewidth=0.9, zorder=1)
    better = line[1] if comparison.mode == "max" else line[0]
    ax.fill_between(line, line, better, color="0.96", linewidth=0, zorder=0)
    for i, (name, (ids, before, after)) in enumerate(pairs.items()):
        gains = np.array(list(comparison.gains(name, baseline).values()))
        known = np.isfinite(before) & np.isfinite(after)
        if not known.any():
            continue
        share = 100 * float((gains[known] > 0).mean())
        missing = "" if known.all() else f", {(~known).sum()} without"
        unseen = np.isin(ids, list(found[name].unseen))
        style = {
            "marker": _MARKERS[i % len(_MARKERS)],
            "edgecolors": COLOURS[i % len(COLOURS)],
            "linewidths": 1.0,
            "s": 30,
            "alpha": 0.85,
            "zorder": 2,
        }
        for some, fill in ((~unseen, COLOURS[i % len(COLOURS)]), (unseen, "none")):
            chosen = known & some
            label = f"{name}: {share:.0f}% gain{missing}"
            if fill == "none" and (known & ~unseen).any():
                label = None
            if chosen.any():
                ax.scatter(before[chosen], after[chosen], c=fill, label=label, **style)
    ax.set(xlim=line, ylim=line)
    ax.set_xlabel(f"{comparison.metric} under {baseline}")
    only = others[0] if len(others) == 1 else "the other"
    ax.set_ylabel(f"{comparison.metric} under {only}")
    dress(ax, grid="both")
    legend(ax)
    return ax
