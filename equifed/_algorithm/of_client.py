"""Algorithms that have one client, whose loss and batching are theirs."""

import equinox as eqx

from .._client import AbstractClient
from .._types import Loss
from ..data import AbstractBatching
from .base import AbstractAlgorithm


class _AbstractOfClient(AbstractAlgorithm):
    """An algorithm with a `client`."""

    client: eqx.AbstractVar[AbstractClient]

    @property
    def loss(self) -> Loss:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.loss

    @property
    def batching(self) -> AbstractBatching:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.batching
