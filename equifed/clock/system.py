"""What the clients' devices and networks are like."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from .._check import check_kind, check_seed, checked
from .._words import shown
from ..data._random import CLOCK
from .asked import client_numbers, count_of, of_clients, one_or_each, quotient
from .availability import AbstractAvailability, AlwaysAvailable, probabilities
from .draws import Draws
from .quantity import AbstractQuantity, quantity, values_of


Clients: TypeAlias = Int[np.ndarray, " clients"] | Sequence[int]

# A generator's purpose is `CLOCK` and the place in here.
_NAMES = (
    *("speed", "downlink", "uplink", "latency"),
    *("drops_before", "drops_after", "completeness", "availability"),
)


class ClientTimes(NamedTuple):
    """The seconds of each client's round, one part after another."""

    wait: Float[np.ndarray, " clients"]
    """Until it answers the server."""
    download: Float[np.ndarray, " clients"]
    compute: Float[np.ndarray, " clients"]
    upload: Float[np.ndarray, " clients"]

    @property
    def total(self) -> Float[np.ndarray, " clients"]:
        return self.wait + self.download + self.compute + self.upload


class Drops(NamedTuple):
    """Which clients are lost in a round. A client is lost at most once."""

    before: Bool[np.ndarray, " clients"]
    """After the download, before it computes."""
    after: Bool[np.ndarray, " clients"]
    """After it has computed, before the upload."""


@dataclasses.dataclass(eq=False)
class SystemModel:
    r"""What each client's device and network are like: how fast it computes, receives
    and sends, when it is there, whether it is lost, and how much of its work it does.

    All of it is a pure function of the seed, the client's number, and the time or the
    count (the number of the round, or of the event), drawn on the host. A round takes a
    client

    $$ \text{latency} + \frac{\text{bits down}}{\text{downlink}} +
       \frac{\text{FLOPs}}{\text{speed}} + \frac{\text{bits up}}{\text{uplink}} $$

    seconds. Each quantity is an [`equifed.clock.AbstractQuantity`][], a plain number,
    or an array of one for each client. What is not given takes no time, and loses
    nobody.
    """

    speed: AbstractQuantity
    downlink: AbstractQuantity
    uplink: AbstractQuantity
    latency: AbstractQuantity
    availability: AbstractAvailability
    drops_before: AbstractQuantity
    drops_after: AbstractQuantity
    completeness: AbstractQuantity
    seed: int

    @checked()
    def __init__(
        self,
        *,
        speed: Any = np.inf,
        downlink: Any = np.inf,
        uplink: Any = np.inf,
        latency: Any = 0.0,
        availability: AbstractAvailability = AlwaysAvailable(),  # noqa: B008 (empty)
        drops_before: Any = 0.0,
        drops_after: Any = 0.0,
        completeness: Any = 1.0,
        seed: int = 0,
    ):
        """**Arguments:**

        - `speed`: FLOP/s; if what a step takes is counted in another unit (steps, or
            examples), of that unit a second.
        - `downlink`, `uplink`: bits/s.
        - `latency`: seconds until a client answers (FLGo's responsiveness).
        - `availability`: when a client is there.
        - `drops_before`, `drops_after`: the probabilities to be lost after the download
            and after the computation (FLGo's connectivity).
        - `completeness`: the share of its planned steps that a client takes; at least
            one step is taken.
        - `seed`: that of all that is random in it.

        **Raises:**

        `TypeError` or `ValueError` for what is no quantity. One that is out of its
        bounds for some client is refused where that client is asked for.
        """
        check_kind("availability", availability, AbstractAvailability)
        self.speed = quantity("speed", speed)
        self.downlink = quantity("downlink", downlink)
        self.uplink = quantity("uplink", uplink)
        self.latency = quantity("latency", latency)
        self.availability = availability
        self.drops_before = quantity("drops_before", drops_before)
        self.drops_after = quantity("drops_after", drops_after)
        self.completeness = quantity("completeness", completeness)
        self.seed = check_seed(seed)

    def times(
        self,
        clients: Clients,
        count: int | Int[np.ndarray, " clients"],
        *,
        flops: ArrayLike,
        bits_down: ArrayLike,
        bits_up: ArrayLike,
    ) -> ClientTimes:
        """How long each part of a round takes each client.

        **Arguments:**

        - `clients`: their numbers.
        - `count`: the number of the round or event, from 0; one, or one for each.
        - `flops`, `bits_down`, `bits_up`: what is computed, received and sent; one
            number, or one for each of the clients.
        """
        clients = client_numbers(clients)
        count = count_of(count, clients)
        down = self._bounded("downlink", clients, count, strict=True)
        speed = self._bounded("speed", clients, count, strict=True)
        up = self._bounded("uplink", clients, count, strict=True)
        return ClientTimes(
            self._bounded("latency", clients, count),
            quotient("bits_down", bits_down, "downlink", down, clients),
            quotient("flops", flops, "speed", speed, clients),
            quotient("bits_up", bits_up, "uplink", up, clients),
        )

    def seconds(
        self,
        clients: Clients,
        count: int | Int[np.ndarray, " clients"],
        *,
        flops: ArrayLike,
        bits_down: ArrayLike,
        bits_up: ArrayLike,
    ) -> Float[np.ndarray, " clients"]:
        """How long a round takes each client in all; as for `times`."""
        parts = {"flops": flops, "bits_down": bits_down, "bits_up": bits_up}
        return self.times(clients, count, **parts).total

    def drops(
        self,
        clients: Clients,
        count: int | Int[np.ndarray, " clients"],
    ) -> Drops:
        """Which clients are lost in a round, and when.

        **Arguments:**

        - `clients`: their numbers.
        - `count`: the number of the round or event, from 0; one, or one for each.
        """
        clients = client_numbers(clients)
        count = count_of(count, clients)
        before = self._lost("drops_before", clients, count)
        return Drops(before, self._lost("drops_after", clients, count) & ~before)

    def steps(
        self,
        clients: Clients,
        count: int | Int[np.ndarray, " clients"],
        planned: Int[np.ndarray, " clients"],
    ) -> Int[np.ndarray, " clients"]:
        """How many of its planned steps each client takes: the share of them that
        `completeness` says, rounded down, and at least one of any."""
        clients, draws = client_numbers(clients), self._draws("completeness")
        count = count_of(count, clients)
        share = probabilities("completeness", self.completeness, draws, clients, count)
        done = np.floor(share * planned + 1e-9).astype(np.int64)
        return np.minimum(np.maximum(done, 1), planned)

    def available(
        self, clients: Clients, time: ArrayLike
    ) -> Bool[np.ndarray, " clients"]:
        """Which clients are there.

        **Arguments:**

        - `clients`: their numbers.
        - `time`: in seconds; one, or one for each of them.
        """
        at = self._at(clients, time)
        return of_clients("available", self.availability.available(*at), at[1], "b")

    def until(self, clients: Clients, time: ArrayLike) -> Float[np.ndarray, " clients"]:
        """When each is next not there: `time` if it is not there now, infinite if it
        stays for ever."""
        at = self._at(clients, time)
        found = of_clients("until", self.availability.until(*at), at[1], "iuf")
        return self._rounded(at[1], found, there=False)

    def next_available(
        self, clients: Clients, time: ArrayLike
    ) -> Float[np.ndarray, " clients"]:
        """When each is next there: `time` if it is there now, infinite if it never is
        again."""
        at = self._at(clients, time)
        found = self.availability.next_available(*at)
        found = of_clients("next_available", found, at[1], "iuf")
        return self._rounded(at[1], found, there=True)

    def check_clients(self, num_clients: int) -> None:
        """Refuses a population of which it does not know all clients."""
        for name in _NAMES:
            known = getattr(self, name).num_clients
            if known is not None and known < num_clients:
                raise ValueError(
                    f"`{name}` of the `SystemModel` has {known} clients, but the "
                    f"population has {num_clients}. Give one for each of them."
                )

    def _rounded(
        self,
        clients: Int[np.ndarray, " clients"],
        time: Float[np.ndarray, " clients"],
        *,
        there: bool,
    ) -> Float[np.ndarray, " clients"]:
        """Times at which clients come or go, a little later where rounding has put
        them just before."""
        time = time.copy()
        todo = np.flatnonzero(np.isfinite(time))
        for power in range(52):
            todo = todo[self.available(clients[todo], time[todo]) != there]
            if len(todo) == 0:
                break
            time[todo] += np.spacing(time[todo]) * 2.0**power
        return time

    def _at(
        self, clients: Clients, time: ArrayLike
    ) -> tuple[Draws, Int[np.ndarray, " clients"], Float[np.ndarray, " clients"]]:
        clients = client_numbers(clients)
        times = one_or_each("time", time, len(clients))
        return self._draws("availability"), clients, times

    def _draws(self, name: str) -> Draws:
        return Draws(self.seed, CLOCK + _NAMES.index(name))

    def _lost(
        self,
        name: str,
        clients: Int[np.ndarray, " clients"],
        count: int | Int[np.ndarray, " clients"],
    ) -> Bool[np.ndarray, " clients"]:
        draws, of = self._draws(name), getattr(self, name)
        probability = probabilities(name, of, draws.of(0), clients, count)
        if not probability.any():
            return np.zeros(len(clients), bool)
        return draws.of(1).uniforms(clients, count)[:, 0] < probability

    def _bounded(
        self,
        name: str,
        clients: Int[np.ndarray, " clients"],
        count: int | Int[np.ndarray, " clients"],
        *,
        strict: bool = False,
    ) -> Float[np.ndarray, " clients"]:
        values = values_of(name, getattr(self, name), self._draws(name), clients, count)
        fits = values > 0 if strict else (values >= 0) & np.isfinite(values)
        if not fits.all():
            i = int(np.flatnonzero(~fits)[0])
            bound = "more than 0" if strict else "finite and at least 0"
            raise ValueError(
                f"`{name}` must be {bound}, got {shown(values[i])} for client "
                f"{clients[i]}."
            )
        return values
