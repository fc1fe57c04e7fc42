"""What a client does that was sent the model: it answers, or it is lost on the way."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .system import SystemModel
from .work import Work


class Tries(NamedTuple):
    """The rounds of some clients, each on its own."""

    steps: Int[np.ndarray, " drawn"]
    planned: Int[np.ndarray, " drawn"]
    back: Float[np.ndarray, " drawn"]
    """Seconds until each would be back, from when it was sent the model."""
    lost_at: Float[np.ndarray, " drawn"]
    """Seconds until it is lost; infinite if it is not."""

    def without(self, leaves: Float[np.ndarray, " drawn"]) -> "Tries":
        """The same, of whom those are lost as well who go away before they are back.

        **Arguments:**

        - `leaves`: seconds until each goes away.
        """
        gone = leaves < np.minimum(self.lost_at, self.back)
        return self._replace(lost_at=np.where(gone, leaves, self.lost_at))


def tries(
    system: SystemModel,
    work: Work,
    clients: Int[np.ndarray, " drawn"],
    count: int | Int[np.ndarray, " drawn"],
    planned: Int[np.ndarray, " drawn"],
    *,
    limit: float | None = None,
) -> Tries:
    """What clients do, one by one, that are sent the model and do not go away.

    **Arguments:**

    - `count`: what the draws are counted by, from 0; one, or one for each.
    - `planned`: how many steps each is to take.
    - `limit`: the seconds that it may take, if it then takes fewer steps, as many as
        it can, of at least one.
    """
    steps = system.steps(clients, count, planned)
    times = system.times(
        clients,
        count,
        flops=work.flops * steps,
        bits_down=work.bits_down,
        bits_up=work.bits_up,
    )
    before, after = system.drops(clients, count)
    if limit is not None:
        one = np.divide(times.compute, steps, where=steps > 0, out=1.0 * steps)
        room = limit - times.wait - times.download - times.upload
        fit = np.full(len(steps), np.inf)
        np.divide(room, one, where=one > 0, out=fit)
        fewer = np.minimum(steps, np.maximum(np.floor(fit), np.minimum(steps, 1)))
        steps, times = fewer.astype(np.int64), times._replace(compute=one * fewer)
    back = times.total
    lost_at = np.full(len(clients), np.inf)
    lost_at[after] = (times.total - times.upload)[after]
    lost_at[before] = (times.wait + times.download)[before]
    return Tries(steps, planned, back, lost_at)
