"""What each client has sent and was sent, over all rounds of a run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .._bits import EACH
from .._history import Row


CLIENTS = "ledger_clients"


def sent_by_client(
    history: Iterable[Row], client_ids: Sequence[str]
) -> dict[str, dict[str, int | float]]:
    """The rounds of each client that was asked, and the sums of its bits, by its id.

    **Arguments:**

    - `history`: of an [`equifed.Ledger`][].
    - `client_ids`: those of the clients' numbers.
    """
    out: dict[int, dict[str, Any]] = {}
    for row in history:
        numbers = np.asarray(row[CLIENTS])
        for place, number in enumerate(numbers.tolist()):
            if number >= 0:
                _add(out.setdefault(number, {"rounds": 0}), row, place)
    return {client_ids[number]: out[number] for number in sorted(out)}


def _add(total: dict[str, Any], row: Mapping[str, Any], place: int) -> None:
    total["rounds"] += 1
    for name, each in EACH.items():
        if each in row:
            bits = np.asarray(row[each])[place].item()
            total[name] = total.get(name, 0) + bits
