"""What training returns."""

from typing import Any

import equinox as eqx

from ._algorithm import State
from ._types import Model


class RESULTS(eqx.Enumeration):
    """How a training ended."""

    successful = ""
    nonfinite_model = (
        "The server model became non-finite. Lower the client or the server learning "
        "rate, or wrap the aggregator in `equifed.DropNonfinite`."
    )


class Solution(eqx.Module):
    """A trained model and how it came about.

    `history` has one dictionary for each round: its number, its training metrics, and
    after the rounds that were evaluated `"<dataset>/<metric>"` for each dataset. It
    holds plain Python numbers, and lists of them.
    """

    model: Model
    state: State
    """The last good state: go on from it with [`equifed.rounds`][]."""
    result: RESULTS
    history: list[dict[str, Any]]

    def values(self, name: str) -> tuple[list[int], list[float]]:
        """The rounds at which a metric was measured, and its values there.

        **Raises:**

        `ValueError` if it never was.
        """
        rows = [row for row in self.history if name in row]
        if not rows:
            known = sorted({key for row in self.history for key in row} - {"round"})
            raise ValueError(
                f"No metric {name!r} was measured. These were: {', '.join(known)}."
            )
        return [row["round"] for row in rows], [row[name] for row in rows]
