"""Several evaluations of the same clients, side by side.

A mean hides who pays for it. So beside it stand the clients who have least, and whom a
method helps and whom it harms: client by client, against a baseline.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import equinox as eqx
import numpy as np
import wadler_lindig as wl
from jaxtyping import Float

from .._check import check_choice, checked
from .._history import check_known
from .._words import listed, shown
from .clients import ClientMetrics


_QUANTILES = (0.1, 0.5, 0.9)
_TAIL = 0.1


class ClientComparison(eqx.Module):
    """One metric of the same clients under several methods, or before and after, as a
    table.

    A row has the mean over the clients and over the examples, quantiles over the
    clients, the mean over the worst tenth of them, and against each baseline the mean
    gain and the shares of the clients that gain and that lose. Gains are positive where
    the metric is better, whichever way that is. A client for whom the metric is NaN
    does not count, and counts in no gain either.

    !!! example

        ```python
        table = eqf.ClientComparison(
            {"FedAvg": under_the_server, "FedPer": under_their_own},
            "accuracy",
            mode="max",
            baselines=["FedAvg"],
        )
        print(table)
        table.rows[1]["gain over FedAvg"]
        ```
    """

    found: dict[str, ClientMetrics]
    metric: str
    mode: Literal["max", "min"]
    baselines: tuple[str, ...]

    @checked(
        found="Give `{'FedAvg': found}`, of what `evaluate_personal` returned.",
        baselines="Give `['FedAvg']`, for example.",
    )
    def __init__(
        self,
        found: Mapping[str, ClientMetrics],
        metric: str,
        *,
        mode: Literal["max", "min"],
        baselines: Sequence[str] = (),
    ):
        """**Arguments:**

        - `found`: by name what was evaluated, with
            [`equifed.evaluate_personal`][], or with `per_client=True`. Clients are
            known by their ids.
        - `metric`: the name of the metric.
        - `mode`: `"max"` if more is better, as of an accuracy; `"min"` for a loss.
        - `baselines`: the names of those that the others are held against.

        **Raises:**

        `ValueError` if there is no such metric or baseline, or one that has no client
        in common with another.
        """
        check_choice("mode", mode, ("max", "min"))
        if isinstance(baselines, str):
            raise TypeError(
                f"`baselines` must be several names, got {shown(baselines)}. Give "
                f"`[{baselines!r}]`."
            )
        if not found:
            raise ValueError("`found` is empty: give at least one evaluation, by name.")
        for name, each in found.items():
            check_known(metric, each.values, f"`found[{name!r}]`")
            each._known(metric, "clients")  # Refuses what is not a number a client.
        for name in baselines:
            if name not in found:
                raise ValueError(
                    f"`baselines` names {shown(name)}, which is not in `found`: "
                    f"{listed(found)}."
                )
        self.found, self.metric, self.mode = dict(found), metric, mode
        self.baselines = tuple(baselines)
        for name in found:
            for baseline in baselines:
                if not self.matched(name, baseline)[0]:
                    raise ValueError(
                        f"`found[{name!r}]` and `found[{baseline!r}]` have no client "
                        "in common. Evaluate them on the same clients."
                    )

    def matched(
        self, name: str, baseline: str
    ) -> tuple[list[str], Float[np.ndarray, " clients"], Float[np.ndarray, " clients"]]:
        """The ids of the clients that are in both, and the values of the metric under
        the baseline and under the other, which are NaN where there is none.

        **Raises:**

        `ValueError` if there is no evaluation of that name.
        """
        for one in (name, baseline):
            if one not in self.found:
                raise ValueError(
                    f"There is no evaluation {shown(one)}: {listed(self.found)}."
                )
        before, after = self._values(baseline), self._values(name)
        ids = [client for client in after if client in before]
        pairs = np.array([(before[x], after[x]) for x in ids], float).reshape(-1, 2)
        return ids, pairs[:, 0], pairs[:, 1]

    def gains(self, name: str, baseline: str) -> dict[str, float]:
        """By how much each client gains over a baseline, by its id; NaN where one of
        the two is.

        **Raises:** as `matched`.
        """
        ids, before, after = self.matched(name, baseline)
        with np.errstate(invalid="ignore"):  # of two infinities
            gains = after - before if self.mode == "max" else before - after
        return dict(zip(ids, gains.tolist(), strict=True))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dictionary for each evaluation: its `"name"`; `"mean"` and `"examples"`,
        the means over clients and over examples; `"p10"`, `"p50"` and `"p90"`;
        `"worst 10%"`; for each baseline, `B` say, `"gain over B"`, and the shares
        `"gain B"` and `"lose B"` of the clients that `"matched B"` counts; and the
        numbers of `"clients"` that have the metric, of those `"without"` it, and of
        those `"unseen"`."""
        return [self._row(name) for name in self.found]

    def _row(self, name: str) -> dict[str, Any]:
        each, metric = self.found[name], self.metric
        end = "low" if self.mode == "max" else "high"
        known = ~np.isnan(list(self._values(name).values()))
        row: dict[str, Any] = {
            "name": name,
            "mean": each.mean(metric),
            "examples": each.mean(metric, by="examples"),
        }
        for q, x in each.quantiles(metric, _QUANTILES).items():
            row[f"p{100 * q:g}"] = x
        row["worst 10%"] = each.tail(metric, _TAIL, end=end)
        for baseline in self.baselines:
            gains = np.array(list(self.gains(name, baseline).values()))
            gains = gains[~np.isnan(gains)]
            some = gains.size > 0
            row[f"gain over {baseline}"] = float(gains.mean()) if some else np.nan
            row[f"gain {baseline}"] = float((gains > 0).mean()) if some else np.nan
            row[f"lose {baseline}"] = float((gains < 0).mean()) if some else np.nan
            row[f"matched {baseline}"] = int(gains.size)
        row["clients"] = int(known.sum())
        row["without"] = int((~known).sum())
        row["unseen"] = len(each.unseen)
        return row

    def _values(self, name: str) -> dict[str, float]:
        each = self.found[name]
        values = np.asarray(each.values[self.metric], np.float64)
        return dict(zip(each.client_ids, values.tolist(), strict=True))

    def __repr__(self) -> str:
        rows = self.rows
        plain = ("name", "mean", "examples", "p10", "p50", "p90", "worst 10%")
        table = [[self.metric, *plain[1:]]]
        table[0] += [x for b in self.baselines for x in (f"over {b}", "gain / lose")]
        some = (x for x in ("without", "unseen") if any(row[x] for row in rows))
        told = ["clients", *some]
        table[0] += told
        for row in rows:
            cells = [str(row["name"]), *(_number(row[x]) for x in plain[1:])]
            for b in self.baselines:
                if row["name"] == b:
                    cells += ["", ""]
                    continue
                gain, lose = (_percent(row[f"{x} {b}"]) for x in ("gain", "lose"))
                cells += [f"{row[f'gain over {b}']:+.4g}", f"{gain} / {lose}"]
            table.append(cells + [str(row[x]) for x in told])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            f"{cells[0]:<{widths[0]}}  "
            + "  ".join(f"{x:>{w}}" for x, w in zip(cells[1:], widths[1:], strict=True))
            for cells in table
        ]
        return "\n".join(line.rstrip() for line in lines)

    def __pdoc__(self, **kwargs: Any) -> wl.AbstractDoc:
        return wl.TextDoc(repr(self))


def _number(x: float) -> str:
    return f"{x:.4g}"


def _percent(x: float) -> str:
    return "-" if np.isnan(x) else f"{100 * x:.0f}%"
