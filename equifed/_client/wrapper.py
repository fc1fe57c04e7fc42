"""A client around another one."""

import equinox as eqx

from .._types import Loss
from ..data import AbstractBatching
from .base import AbstractClient


class AbstractWrapper(AbstractClient):
    """Changes what another client sends: its loss and its batching are that one's."""

    client: eqx.AbstractVar[AbstractClient]

    @property
    def follows_loss(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.follows_loss

    @property
    def carries_state(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.carries_state

    @property
    def loss(self) -> Loss:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.loss

    @property
    def batching(self) -> AbstractBatching:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.batching
