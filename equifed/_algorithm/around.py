"""Algorithms around another one, whose loss and batching are theirs."""

import equinox as eqx

from .._types import Loss
from ..data import AbstractBatching
from .base import AbstractAlgorithm


class _AbstractAround(AbstractAlgorithm):
    """An algorithm with an `algorithm` in it."""

    algorithm: eqx.AbstractVar[AbstractAlgorithm]

    @property
    def loss(self) -> Loss:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.algorithm.loss

    @property
    def batching(self) -> AbstractBatching:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.algorithm.batching
