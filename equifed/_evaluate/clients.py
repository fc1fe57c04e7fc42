"""What an evaluation says of each client."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
import wadler_lindig as wl

from .._check import check_choice, check_number
from .._history import check_known, plain
from .._words import shown
from .ranked import By, Counts, counts_by, End, quantiles, tail_mean, Values


class ClientMetrics(eqx.Module):
    """Metrics of each client of a dataset.

    `values[name]` has one entry for each client, in the order of `client_ids`; it is
    NaN for a client without examples.
    """

    values: dict[str, np.ndarray]
    num_examples: np.ndarray
    client_ids: list[str]
    unseen: tuple[str, ...] = ()
    """Of own models those whose clients were not trained with."""

    def quantiles(
        self,
        name: str,
        q: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 0.9),
        *,
        by: By = "clients",
    ) -> dict[float, float]:
        """Quantiles of a metric over the clients; those that have none (it is NaN) are
        left out.

        **Arguments:**

        - `name`: the metric.
        - `q`: the quantiles, from 0 to 1.
        - `by`: `"clients"` counts each client once, `"examples"` as often as it has
            examples.

        **Raises:**

        `ValueError` if there is no such metric, or it is not one number for each
        client.
        """
        if not isinstance(q, Sequence | np.ndarray) or isinstance(q, str):
            raise TypeError(
                f"`q` must be several numbers, `(0.1, 0.5, 0.9)` say, got {shown(q)}."
            )
        for p in q:
            check_number("q", p, least=0, most=1)
        found = quantiles(*self._known(name, by), q)
        return dict(zip(q, found, strict=True))

    def mean(self, name: str, *, by: By = "clients") -> float:
        """The mean of a metric over the clients; those that have none (it is NaN) are
        left out. NaN if none has it.

        **Arguments:** and **Raises:** as `quantiles`.
        """
        return tail_mean(*self._known(name, by), 1.0, "low")

    def tail(
        self, name: str, share: float = 0.1, *, end: End = "low", by: By = "clients"
    ) -> float:
        """The mean of a metric over the clients for whom it is lowest or highest: over
        the worst tenth, if that is the low end of an accuracy, or the high one of a
        loss. NaN if no client has it.

        The client at the border counts in part, so that it is exactly that share.

        **Arguments:** as `quantiles`, and

        - `share`: how many of the clients (or examples), of all that have the metric.
        - `end`: `"low"` or `"high"`.

        **Raises:** as `quantiles`.
        """
        check_number("share", share, least=0, strict=True, most=1)
        check_choice("end", end, ("low", "high"))
        return tail_mean(*self._known(name, by), float(share), end)

    def __getitem__(self, client_id: str) -> dict[str, Any]:
        if client_id not in self.client_ids:
            some = ", ".join(map(repr, self.client_ids[:5]))
            more = ", ..." if len(self.client_ids) > 5 else ""
            raise ValueError(
                f"There is no client {shown(client_id)} among the "
                f"{len(self.client_ids)}: {some}{more}."
            )
        i = self.client_ids.index(client_id)
        return {name: plain(value[i]) for name, value in self.values.items()}

    def _known(self, name: str, by: By) -> tuple[Values, Counts]:
        """The clients' values that are known, and how often each counts."""
        check_known(name, self.values, "`ClientMetrics`")
        value = np.asarray(self.values[name], np.float64)
        if value.ndim > 1:
            raise ValueError(
                f"The metric {name!r} is an array of shape {value.shape[1:]} for each "
                f"client, which cannot be ranked. They are in `values[{name!r}]`."
            )
        counts, known = counts_by(by, self.num_examples), ~np.isnan(value)
        return value[known], counts[known]

    def __pdoc__(self, **kwargs: Any) -> wl.AbstractDoc:
        means = [
            f"{name} {self.mean(name):.4g}" if value.ndim == 1 else f"{name} {shape}"
            for name, value in self.values.items()
            for shape in [list(value.shape[1:])]
        ]
        return wl.TextDoc(
            f"ClientMetrics({len(self.client_ids):,} clients, "
            f"{int(self.num_examples.sum()):,} examples; mean over clients: "
            f"{', '.join(means) or 'no metric'})"
        )
