"""What a client does that was sent the model: it answers, or it is lost on the way."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from .system import ClientTimes, SystemModel
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


class Whole(NamedTuple):
    """The rounds of some clients that have the time for them."""

    clients: Int[np.ndarray, " drawn"]
    count: int | Int[np.ndarray, " drawn"]
    planned: Int[np.ndarray, " drawn"]
    steps: Int[np.ndarray, " drawn"]
    times: ClientTimes


def whole(
    system: SystemModel,
    work: Work,
    clients: Int[np.ndarray, " drawn"],
    count: int | Int[np.ndarray, " drawn"],
    planned: Int[np.ndarray, " drawn"],
) -> Whole:
    """The steps that clients take who have the time for them, and how long they take.

    **Arguments:**

    - `count`: what the draws are counted by, from 0; one, or one for each.
    - `planned`: how many steps each is to take.
    """
    steps = system.steps(clients, count, planned)
    sent = {"bits_down": work.bits_down, "bits_up": work.bits_up}
    times = system.times(clients, count, flops=work.flops * steps, **sent)
    return Whole(clients, count, planned, steps, times)


def tries(
    system: SystemModel,
    whole: Whole,
    *,
    limit: float | Float[np.ndarray, " drawn"] | None = None,
) -> Tries:
    """What clients do, one by one, that are sent the model and do not go away.

    **Arguments:**

    - `limit`: the seconds that it may take, if it then takes fewer steps, as many as
        it can, of at least one; one number, or one for each.
    """
    clients, count, planned, steps, times = whole
    before, after = system.drops(clients, count)
    back = times.total
    if limit is not None:
        steps, times, back = _within(limit, steps, times)
    lost_at = np.full(len(clients), np.inf)
    lost_at[after] = (times.total - times.upload)[after]
    lost_at[before] = (times.wait + times.download)[before]
    return Tries(steps, planned, back, lost_at)


def _within(
    limit: float | Float[np.ndarray, " drawn"],
    steps: Int[np.ndarray, " drawn"],
    times: ClientTimes,
) -> tuple[Int[np.ndarray, " drawn"], ClientTimes, Float[np.ndarray, " drawn"]]:
    """As many of the steps as there is time for, of at least one, and when who takes
    them is back. A limit is often just the time of some steps: rounding does not make
    it that of one less."""
    one = np.divide(times.compute, steps, where=steps > 0, out=1.0 * steps)
    room = limit - times.wait - times.download - times.upload
    fit = np.full(len(steps), np.inf)
    np.divide(room + 1e-9 * limit, one, where=one > 0, out=fit)
    fewer = np.minimum(steps, np.maximum(np.floor(fit), np.minimum(steps, 1)))
    times = times._replace(compute=one * fewer)
    in_time = (one > 0) & (fewer <= fit)
    back = np.where(in_time, np.minimum(times.total, limit), times.total)
    return fewer.astype(np.int64), times, back
