"""How much room to make for every round, so that nearly all of them fit one program.

The sizes of a cohort's arrays are what a round is compiled for. The room is found by
looking ahead: samplers are pure functions of the round, so the clients of the first few
rounds say how much one needs, and how much that differs. It depends on nothing else,
not on how far a training has come, so that one that is resumed has the same shapes.

Room for steps costs four bytes for each example of a batch, since only a client's own
steps are run. Room for examples, where they are sent round by round, costs what sending
zeros costs; there it is less generous.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


# So many rounds are looked at, and fewer, but some, if they have very many clients.
_MOST, _LEAST, _CLIENTS = 16, 4, 2**17
# So many standard deviations above the mean lies no round in a million, if sums of
# clients' steps are nearly normal; the deviation of a few rounds is roughly known.
_DEVIATIONS = 5
# Of examples, which are sent: few rounds have more, which a few more programs run.
_DEVIATIONS_SENT = 3


class Needs(NamedTuple):
    """What the fullest device of a round holds; or of every round, the room."""

    steps: int = 0
    slots: int = 0
    rows: int = 0
    """Of a pool of its own clients' examples."""


def room_for(rounds: Iterator[Needs]) -> Needs:
    """The room that nearly every round fits.

    **Arguments:**

    - `rounds`: the needs of the first rounds, as many as are asked for. What fails, a
        batching for instance, is left out: it is told when it is that round's turn.
    """
    seen: list[Needs] = []
    try:
        while len(seen) < _MOST:
            seen.append(next(rounds))
            if len(seen) >= _LEAST and sum(x.slots for x in seen) > _CLIENTS:
                break
    except Exception:  # noqa: BLE001, S110
        pass
    if not seen:
        return Needs()
    steps, slots, rows = np.asarray(seen, np.float64).T
    return Needs(
        _nearly_all(steps, _DEVIATIONS),
        _nearly_all(slots, _DEVIATIONS),
        _nearly_all(rows, _DEVIATIONS_SENT),
    )


def raised(need: int, room: int) -> int:
    """The room, twice the room, four times: the first that is enough."""
    if room == 0:
        return need
    while room < need:
        room *= 2
    return room


def _nearly_all(needs: Float[np.ndarray, " rounds"], deviations: int) -> int:
    return int(np.ceil(needs.mean() + deviations * needs.std()))
