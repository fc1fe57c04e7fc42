"""A client around another one."""

import equinox as eqx

from .._types import Loss
from ..data import AbstractBatching
from .base import AbstractClient
from .local_sgd import LocalSGD


class AbstractWrapper(AbstractClient):
    """Changes what local SGD sends: its loss and its batching are that one's."""

    client: eqx.AbstractVar[LocalSGD]
    follows_loss = True

    @property
    def loss(self) -> Loss:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.loss

    @property
    def batching(self) -> AbstractBatching:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.batching
