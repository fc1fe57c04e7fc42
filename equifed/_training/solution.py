"""What training returns."""

import math
from typing import Any

import equinox as eqx
import jax.tree_util as jtu
import wadler_lindig as wl

from .._history import check_known, names_in, ROUND
from .._round import State
from .._tree import params_of
from .._types import Model


class RESULTS(eqx.Enumeration):
    """How a training ended."""

    successful = "The training ran to its end."
    nonfinite_model = (
        "The server model became non-finite. Lower the client or the server learning "
        "rate, or wrap the aggregator in `equifed.DropNonfinite`."
    )
    nonfinite_loss = (
        "The model is finite to the end, but the training loss of some round is not: "
        "see `loss` in the history."
    )
    no_messages = (
        "No round had a message that counts, so that the model is as it was: see "
        "`clients` and `nonfinite` in the history."
    )
    stopped = (
        "The training's `stop` ended it: a target was reached, or patience ran out."
    )
    interrupted = "An exception ended the training before its last round."


_NAMES = (
    *("successful", "nonfinite_model", "nonfinite_loss", "no_messages"),
    *("stopped", "interrupted"),
)


class Solution(eqx.Module):
    """A trained model and how it came about.

    `history` has one dictionary for each round: its number, its training metrics, and
    after the rounds that were evaluated `"<dataset>/<metric>"` for each dataset. It
    holds plain Python numbers, and NumPy arrays where a metric is more than a number. A
    mean over nothing, as the loss of a round in which nobody took part, is NaN. What
    was sent, `bits_up` and `bits_down`, is a whole number, exact to the last bit.
    """

    model: Model
    """The trained model; the best one, if there was a `stop`, which says what is best;
    `None` if the algorithm trains several."""
    state: State
    """The last good state: go on from it with [`equifed.rounds`][]."""
    result: RESULTS
    history: list[dict[str, Any]]
    best_round: int | None = None
    """The round of the best model, if there was a `stop`. The state is the last one."""

    def values(self, name: str) -> tuple[list[int], list[Any]]:
        """The rounds at which a metric was measured, and its values there.

        **Raises:**

        `ValueError` if it never was.
        """
        check_known(name, names_in(self.history), "The history")
        rows = [row for row in self.history if name in row]
        return [row[ROUND] for row in rows], [row[name] for row in rows]

    def __pdoc__(self, **kwargs: Any) -> wl.AbstractDoc:
        result = next(n for n in _NAMES if self.result == getattr(RESULTS, n))
        last = self.history[-1] if self.history else {}
        numbers = [
            f"{name} {value:.4g}"
            for name, value in last.items()
            if (name == "loss" or "/" in name) and isinstance(value, int | float)
        ]
        leaves = jtu.tree_leaves(params_of(self.model))
        count = sum(math.prod(x.shape) for x in leaves)
        round = last.get(ROUND, int(self.state.round))
        best = [] if self.best_round is None else [f"best in round {self.best_round}"]
        parts = [result, f"round {round}", *best, *numbers, f"{count:,} params"]
        return wl.TextDoc(f"Solution({', '.join(parts)})")
