"""What there is to warn of in the numbers of a round.

A warning is given once, for the first such round, and says where the fault lies if the
data of that round's clients shows it.
"""

import math
from collections.abc import Collection, Iterable
from typing import Any

from .._algorithm import AbstractAlgorithm
from .._algorithm.inside import layers
from .._evaluate.blame import bad_cell, blame
from .._history import ROUND, Row
from .._metrics import RESERVED
from .._types import Model
from .._warn import warn
from .._words import listed
from ..data import AbstractLoader
from ..data._participants import participants
from .solution import RESULTS


NOBODY = (
    "No client took part in round {}: {}. The round's means are NaN, and nothing was "
    "learnt."
)
NO_MESSAGES = (
    "No client of round {} had a finite message that counts, so that the model stayed "
    "as it was; see `nonfinite` in the history."
)
LOSS = "The training loss of round {} is {}, though the messages of {:g} clients count."
METRICS = (
    "In round {} of the training {}: a mean over nothing, or of numbers that are not "
    "finite."
)
REJECTED = (
    "Round {} was rejected {}, so that the model stayed as it was; see `rejected` in "
    "the history."
)
ALL_REJECTED = "All {} rounds were rejected, so that the model is as it was. {}"
SOME = "Messages of round {} are not finite ({:g} of them), and {}."


class Watch:
    """Looks at one row of the history after another."""

    def __init__(
        self,
        loader: AbstractLoader,
        algorithm: AbstractAlgorithm,
        history: Iterable[Row],
        reported: Collection[str] = (),
        *,
        private: bool = False,
    ):
        """**Arguments:**

        - `reported`: the names of the metrics that the loss reports. Others may be
            means over nothing by right, as FedPA's `correction_norm` in burn-in rounds.
        - `private`: whether what its clients sent, and who they were, is not to be
            told: then only a model that is not finite is worth a word.
        """
        self._loader, self._loss = loader, algorithm.loss
        *_, innermost = layers(algorithm)  # That which makes the rounds.
        self._rejects = innermost.rejects
        self._reported = set(reported) - set(RESERVED)
        self._said: set[str] = set()
        self._seen: set[str] = set()
        history = list(history)
        self._lost = not private and any(map(_is_lost, history))
        self._num_rounds = len(history)
        self._num_rejected = 0 if private else sum(map(_is_rejected, history))
        self._private = private
        self._heard = private or any(row["clients"] > 0 for row in history)

    def __call__(self, row: Row, model: Model) -> RESULTS:
        """Warns of what is new, and returns how the training would end here.

        **Arguments:**

        - `model`: the last good one.
        """
        if row["nonfinite_model"]:
            self._say("model", RESULTS[RESULTS.nonfinite_model], row, model)
            return RESULTS.nonfinite_model
        if self._private:
            return self.result
        self._heard |= row["clients"] > 0
        self._num_rounds += 1
        self._num_rejected += _is_rejected(row)
        if _is_lost(row):
            self._lost = True
            text = LOSS.format(row[ROUND], row["loss"], row["clients"])
            self._say("loss", text, row, model)
        elif row["clients"] == 0 and row["nonfinite"] > 0:
            self._say("messages", NO_MESSAGES.format(row[ROUND]), row, model)
        elif row["clients"] == 0:
            self._nobody(row)
        else:
            if _is_rejected(row):
                text = REJECTED.format(
                    row[ROUND], self._rejects[0].format(clients=row["clients"])
                )
                self._say("rejected", text, row, model)
            if row["nonfinite"] > 0:
                self._some(row)
            self._metrics(row, model)
        return self.result

    def end(self) -> None:
        """Warns of what only the end of the training shows."""
        if self._num_rounds > 1 and self._num_rejected == self._num_rounds:
            warn(ALL_REJECTED.format(self._num_rounds, self._rejects[1]))

    @property
    def result(self) -> RESULTS:
        """How the training would end here."""
        if self._lost:
            return RESULTS.nonfinite_loss
        return RESULTS.successful if self._heard else RESULTS.no_messages

    def _say(self, kind: str, text: str, row: Row, model: Model) -> None:
        if kind not in self._said:
            self._said.add(kind)
            where = ""
            if not self._private:
                where = blame(self._clients(row), self._loss, model)
            warn(f"{text} {where}".rstrip())

    def _nobody(self, row: Row) -> None:
        if "nobody" in self._said:
            return
        self._said.add("nobody")
        count = len(self._clients(row))
        drawn = self._loader.report(row[ROUND] - 1).get("drawn", count)
        why = "none was drawn"
        if drawn > count:
            why = (
                f"of the {drawn} that were drawn none was in time with a message that "
                "counts (see `late` and `lost` in the history)"
            )
        elif count > 0:
            why = (
                f"of the {count} that were drawn none has a message that counts (one "
                "of weight 0 or less does not, and a client with too few examples for "
                "one batch has none)"
            )
        warn(NOBODY.format(row[ROUND], why))

    def _some(self, row: Row) -> None:
        # Clients may diverge, and are left out; what their data holds is news.
        if "data" in self._said:
            return
        for client_id, columns in self._clients(row):
            if client_id in self._seen:
                continue
            self._seen.add(client_id)
            cell = bad_cell(client_id, columns)
            if cell is not None:
                self._said.add("data")
                warn(SOME.format(row[ROUND], row["nonfinite"], cell))
                return

    def _metrics(self, row: Row, model: Model) -> None:
        bad = [
            f"{name!r} is {value}"
            for name, value in row.items()
            if name in self._reported
            and isinstance(value, float)
            and not math.isfinite(value)
        ]
        if bad:
            self._say("metrics", METRICS.format(row[ROUND], listed(bad)), row, model)

    def _clients(self, row: Row) -> list[tuple[str, Any]]:
        return participants(self._loader, row[ROUND] - 1)


def _is_rejected(row: Row) -> bool:
    """Whether an aggregator refused it, though someone came."""
    return row.get("clients", 0) > 0 and row.get("rejected", 0) > 0


def _is_lost(row: Row) -> bool:
    """Whether messages counted, but not what their clients measured."""
    return row["clients"] > 0 and not math.isfinite(row["loss"])
