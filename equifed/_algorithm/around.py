"""Algorithms around another one, whose loss, batching and demands are theirs."""

from typing import ClassVar

import equinox as eqx

from .._lookups import Numbered
from .._roles import Role
from .._types import Loss
from ..data import AbstractBatching
from .base import AbstractAlgorithm


class _AbstractAround(AbstractAlgorithm):
    """An algorithm with an `algorithm` in it."""

    algorithm: eqx.AbstractVar[AbstractAlgorithm]
    looks_at_messages: ClassVar[bool] = False
    """Whether it must go around what replaces messages, to see those that are sent."""
    asks_first: ClassVar[bool] = False
    """Whether it asks clients by the newest model before it chooses whom to train."""

    @property
    def loss(self) -> Loss:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.algorithm.loss

    @property
    def batching(self) -> AbstractBatching:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.algorithm.batching

    @property
    def needs(self) -> tuple[Role, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.algorithm.needs

    @property
    def _numbered(self) -> tuple[Numbered, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.algorithm._numbered

    @property
    def keeps_statistics(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.algorithm.keeps_statistics


class _AbstractWithItsState(_AbstractAround):
    """One whose state is that of the algorithm in it: what it changes are the messages
    of a round, or its metrics."""

    @property
    def carries_state(self) -> bool:
        return self.algorithm.carries_state

    def keep(self, params, personal, begun):
        return self.algorithm.keep(params, personal, begun)

    def model(self, state):
        return self.algorithm.model(state)

    def models(self, state):
        return self.algorithm.models(state)

    def own_model(self, state, kept):
        return self.algorithm.own_model(state, kept)
