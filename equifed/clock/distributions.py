"""Quantities that are drawn: once for each client, or anew at every count."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import ArrayLike

from .._check import check_choice, checked
from .quantity import AbstractQuantity, Counts, number, of_each, quantity


class _AbstractDrawn(AbstractQuantity):
    """What the distributions have in common: how often they are drawn."""

    each: Literal["client", "round"]

    def _count(self, count: Counts) -> Counts | None:
        return None if self.each == "client" else count


@dataclasses.dataclass(eq=False)
class Uniform(_AbstractDrawn):
    """Uniform between two numbers.

    **Arguments:**

    - `low`, `high`: the numbers.
    - `each`: whether it is drawn once for each `"client"`, or anew in each `"round"`.
    """

    low: float
    high: float
    each: Literal["client", "round"]

    @checked()
    def __init__(
        self,
        low: ArrayLike,
        high: ArrayLike,
        *,
        each: Literal["client", "round"] = "client",
    ):
        check_choice("each", each, ("client", "round"))
        self.low = number("low", low)
        self.high = number("high", high, least=self.low)
        self.each = each

    def __call__(self, draws, clients, count):
        u = draws.uniforms(clients, self._count(count))[:, 0]
        return self.low + (self.high - self.low) * u


@dataclasses.dataclass(eq=False)
class LogNormal(_AbstractDrawn):
    r"""Log-normal: the median times $e^{\sigma z}$, where $z$ is standard normal. The
    usual model of how far devices and networks are apart.

    **Arguments:**

    - `median`: half of the clients have less.
    - `sigma`: the standard deviation of the logarithm.
    - `each`: whether it is drawn once for each `"client"`, or anew in each `"round"`.
    """

    median: float
    sigma: float
    each: Literal["client", "round"]

    @checked()
    def __init__(
        self,
        median: ArrayLike,
        sigma: ArrayLike,
        *,
        each: Literal["client", "round"] = "client",
    ):
        check_choice("each", each, ("client", "round"))
        self.median = number("median", median, least=0, strict=True)
        self.sigma = number("sigma", sigma, least=0)
        self.each = each

    def __call__(self, draws, clients, count):
        return self.median * np.exp(
            self.sigma * draws.normals(clients, self._count(count))
        )


@dataclasses.dataclass(eq=False)
class Exponential(_AbstractDrawn):
    """Exponential: a delay without memory.

    **Arguments:**

    - `mean`: the mean.
    - `each`: whether it is drawn once for each `"client"`, or anew in each `"round"`.
    """

    mean: float
    each: Literal["client", "round"]

    @checked()
    def __init__(self, mean: ArrayLike, *, each: Literal["client", "round"] = "client"):
        check_choice("each", each, ("client", "round"))
        self.mean, self.each = number("mean", mean, least=0), each

    def __call__(self, draws, clients, count):
        return -self.mean * np.log(draws.uniforms(clients, self._count(count))[:, 0])


@dataclasses.dataclass(eq=False)
class Mixture(_AbstractDrawn):
    """One of several quantities, drawn by their shares: tiers of devices, say, or a
    share of the clients that does not finish.

    **Arguments:**

    - `parts`: the quantities, or plain numbers.
    - `shares`: the probability of each; they sum to 1.
    - `each`: whether it is drawn once for each `"client"`, or anew in each `"round"`.

    !!! example

        ```python
        Mixture([2e8, 1e9, 5e9], shares=[0.5, 0.4, 0.1])
        ```
    """

    parts: tuple[AbstractQuantity, ...]
    shares: tuple[float, ...]
    each: Literal["client", "round"]

    @checked()
    def __init__(
        self,
        parts: Sequence[Any],
        *,
        shares: ArrayLike | Sequence[ArrayLike],
        each: Literal["client", "round"] = "client",
    ):
        check_choice("each", each, ("client", "round"))
        given = of_each("shares", shares).tolist()
        if len(parts) != len(given) or not 0 < len(parts) <= 7:
            raise ValueError(
                "`parts` must be up to 7 quantities with one of `shares` for each, got "
                f"{len(parts)} and {len(given)}."
            )
        self.shares = tuple(number("shares", share, least=0) for share in given)
        if abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"`shares` must sum to 1, got {sum(self.shares):g}.")
        self.parts = tuple(quantity("parts", part) for part in parts)
        self.each = each

    def __call__(self, draws, clients, count):
        u = draws.uniforms(clients, self._count(count))[:, 0]
        which = np.searchsorted(np.cumsum(self.shares)[:-1], u, side="right")
        out = np.empty(len(clients))
        for i, part in enumerate(self.parts):
            own = which == i
            counts = np.broadcast_to(np.asarray(count, np.int64), own.shape)
            out[own] = part(draws.of(i), clients[own], counts[own])
        return out

    @property
    def num_clients(self) -> int | None:
        return _fewest(part.num_clients for part in self.parts)


@dataclasses.dataclass(eq=False)
class Wave(AbstractQuantity):
    r"""A quantity that goes up and down with the count $r$: times $m + a \sin(2 \pi r /
    T)$. Of availability in slots of an hour and with a period of 24 that is a day.

    **Arguments:**

    - `of`: the quantity, or a plain number.
    - `mean`, `amplitude`: $m$ and $a$.
    - `period`: $T$.
    """

    of: AbstractQuantity
    mean: float
    amplitude: float
    period: float

    @checked()
    def __init__(
        self, of: Any, *, mean: ArrayLike, amplitude: ArrayLike, period: ArrayLike
    ):
        self.of = quantity("of", of)
        self.mean = number("mean", mean)
        self.amplitude = number("amplitude", amplitude)
        self.period = number("period", period, least=0, strict=True)

    def __call__(self, draws, clients, count):
        phase = 2 * np.pi * np.asarray(count) / self.period
        return self.of(draws, clients, count) * (
            self.mean + self.amplitude * np.sin(phase)
        )

    @property
    def num_clients(self) -> int | None:
        return self.of.num_clients


def _fewest(counts: Iterable[int | None]) -> int | None:
    return min((count for count in counts if count is not None), default=None)
