"""What an evaluation says of each client."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
import wadler_lindig as wl
from jaxtyping import Float

from .._check import check_number
from .._history import check_known, plain
from .._words import shown


class ClientMetrics(eqx.Module):
    """Metrics of each client of a dataset.

    `values[name]` has one entry for each client, in the order of `client_ids`; it is
    NaN for a client without examples.
    """

    values: dict[str, np.ndarray]
    num_examples: np.ndarray
    client_ids: list[str]

    def quantiles(
        self, name: str, q: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 0.9)
    ) -> dict[float, float]:
        """Quantiles of a metric over the clients, each counted once; those that have
        none (it is NaN) are left out.

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
        known = self._known(name)
        if known.size == 0:
            return dict.fromkeys(q, np.nan)
        with np.errstate(invalid="ignore"):  # between two infinities
            return {p: float(np.quantile(known, p)) for p in q}

    def mean(self, name: str) -> float:
        """The mean of a metric over the clients, each counted once; those that have
        none (it is NaN) are left out. NaN if none has it.

        **Raises:** as `quantiles`.
        """
        known = self._known(name)
        with np.errstate(invalid="ignore"):
            return float(known.mean()) if known.size > 0 else np.nan

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

    def _known(self, name: str) -> Float[np.ndarray, " known"]:
        check_known(name, self.values, "`ClientMetrics`")
        value = np.asarray(self.values[name], np.float64)
        if value.ndim > 1:
            raise ValueError(
                f"The metric {name!r} is an array of shape {value.shape[1:]} for each "
                f"client, which cannot be ranked. They are in `values[{name!r}]`."
            )
        return value[~np.isnan(value)]

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
