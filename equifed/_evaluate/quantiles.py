"""How the clients differ, evaluated while a model is trained."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np

from .._check import check_choice, check_kind, check_number, checked
from .._words import shown
from ..data import FederatedDataset
from .ranked import BY, By


class ClientQuantiles(eqx.Module):
    """A dataset of which [`equifed.train`][] logs each metric's quantiles over the
    clients, beside the metric over all examples.

    With the name `"test"` the history has `"test/accuracy"`, and `"test/accuracy/min"`,
    `"test/accuracy/p10"`, `"test/accuracy/p50"`, `"test/accuracy/p90"` and
    `"test/accuracy/max"`; with `tail=0.1` also `"test/accuracy/low10"` and
    `"test/accuracy/high10"`, the means over the tenths of the clients for whom it is
    lowest and highest. Clients for whom the metric is NaN do not count, and metrics
    that are more than a number have no quantiles. It is one pass over the examples.

    !!! example

        ```python
        eqf.train(..., evaluation={"test": eqf.ClientQuantiles(test, tail=0.1)})
        ```
    """

    dataset: FederatedDataset
    q: tuple[float, ...]
    tail: float | None
    by: By

    @checked(dataset="Build one with `FederatedDataset.from_arrays` or its siblings.")
    def __init__(
        self,
        dataset: FederatedDataset,
        q: Sequence[float] | np.ndarray = (0.0, 0.1, 0.5, 0.9, 1.0),
        *,
        tail: float | None = None,
        by: By = "clients",
    ):
        """**Arguments:**

        - `dataset`: the clients.
        - `q`: the quantiles, from 0 (the lowest client, `"min"`) to 1 (`"max"`).
        - `tail`: of which share at each end to log the mean; of none by default.
        - `by`: `"clients"` counts each client once, `"examples"` as often as it has
            examples.
        """
        check_kind("q", q, (Sequence, np.ndarray))
        for p in q:
            check_number("q", p, least=0, most=1)
        if tail is not None:
            check_number("tail", tail, least=0, strict=True, most=1)
        check_choice("by", by, BY)
        self.dataset, self.q = dataset, tuple(float(p) for p in q)
        self.tail, self.by = None if tail is None else float(tail), by
        if len(set(self.labels)) < len(self.labels) or not self.q:
            raise ValueError(
                f"`q` must be one or several different quantiles, got {shown(q)}."
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """What the quantiles are called, and the two means."""
        ends = {0.0: "min", 1.0: "max"}
        labels = tuple(ends.get(p, f"p{100 * p:.6g}") for p in self.q)
        if self.tail is None:
            return labels
        return (*labels, f"low{100 * self.tail:.6g}", f"high{100 * self.tail:.6g}")
