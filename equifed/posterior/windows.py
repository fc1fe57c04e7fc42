"""Which of a client's steps make up which sample.

A chain begins with a burn-in, and then takes turns at averaging its iterates, which
makes a sample, and discarding some, which makes the next sample less like it. Lengths
are counted in the batching's own unit: in epochs for `Epochs`, in steps for `Steps`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._check import check_count
from ..data import AbstractBatching, Epochs, Steps


class Window(NamedTuple):
    """The steps `begin:end` of a client's plan, the first `keep - begin` of which do
    not count."""

    begin: Int[Array, ""]
    keep: Int[Array, ""]
    end: Int[Array, ""]


def _count(name: str, least: int) -> Callable[[Any], int]:
    return functools.partial(check_count, name, least=least)


class Windows(eqx.Module):
    """The lengths of a chain's parts, and the number of chains that share the steps.

    The lengths are in epochs if the batching is [`equifed.data.Epochs`][], in steps if
    it is [`equifed.data.Steps`][]. See [`equifed.posterior.IASG`][].
    """

    burnin: int = eqx.field(converter=_count("burnin", 0))
    average: int = eqx.field(converter=_count("average", 1))
    discard: int = eqx.field(converter=_count("discard", 0))
    chains: int = eqx.field(converter=_count("chains", 1))

    def num_windows(self, batching: AbstractBatching) -> int:
        """The number of samples of each chain.

        **Raises:**

        `ValueError` if the client's steps cannot be cut in that way.
        """
        units, name = _units(batching)
        if units % self.chains:
            raise ValueError(
                f"{self.chains} chains cannot share {units} {name} evenly; got "
                f"{batching!r}."
            )
        each = units // self.chains
        left = each - self.burnin
        if left < self.average:
            raise ValueError(
                f"The burn-in leaves no room for a sample: of {each} {name} a chain, "
                f"`burnin={self.burnin}` are left out, and a sample takes "
                f"`average={self.average}`. Give more {name}, or a shorter burn-in."
            )
        period = self.average + self.discard
        count, rest = divmod(left + self.discard, period)
        if rest:
            raise ValueError(
                f"{rest} of a chain's {each} {name} would be left over: it takes "
                f"`burnin={self.burnin}`, then {count} samples of `average="
                f"{self.average}` with `discard={self.discard}` between them. Make "
                f"`burnin` {self.burnin + rest}, or change the number of {name}."
            )
        return count

    def window(
        self,
        chain: Int[Array, ""],
        number: Int[Array, ""],
        num_steps: Int[Array, ""],
        batching: AbstractBatching,
    ) -> Window:
        """The steps of one sample, for a client of so many steps."""
        units, _ = _units(batching)
        unit = num_steps // units
        first = chain * (units // self.chains)
        keep = first + self.burnin + number * (self.average + self.discard)
        # The burn-in goes with the first sample, what is discarded with the next one.
        begin = jnp.where(number == 0, first, keep - self.discard)
        return Window(begin * unit, keep * unit, (keep + self.average) * unit)


def _units(batching: AbstractBatching) -> tuple[int, str]:
    if isinstance(batching, Steps):
        return batching.num_batches, "steps"
    if not isinstance(batching, Epochs):
        raise ValueError(
            "A chain counts its burn-in and its samples in the epochs of `Epochs` or "
            f"in the steps of `Steps`, got {batching!r}."
        )
    if batching.last == "fill":
        raise ValueError(
            "With `last='fill'` the epochs are strung together, and a batch may belong "
            "to two of them, so that no sample can be made of one epoch. Use "
            "`last='short'` or `last='drop'`."
        )
    return batching.num_epochs, "epochs"
