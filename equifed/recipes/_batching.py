"""How a client goes through its examples, as plain numbers: epochs or steps."""

import dataclasses
from typing import Literal

from .._check import check_choice, check_count
from ..data import AbstractBatching, Epochs, Steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batching:
    """Epochs or steps, and the size of a batch.

    **Arguments:**

    - `batch_size`: how many examples a batch has.
    - `epochs`: how often a client goes through its examples in a round.
    - `steps`: in place of epochs, how many steps a client takes in a round.
    - `last`: what becomes of an epoch's last batch, if it is short: it stays so, it is
        dropped, or, as in FedJAX, filled from a new epoch.
    """

    batch_size: int = 20
    epochs: int | None = None
    steps: int | None = None
    last: Literal["short", "drop", "fill"] = "short"

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size)
        for name in ("epochs", "steps"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_choice("last", self.last, ("short", "drop", "fill"))
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"`epochs={self.epochs}` and `steps={self.steps}` are two ways of "
                "saying how long a client trains. Give one of them."
            )
        if self.steps is not None and self.last != "short":
            raise ValueError(
                f"`last={self.last!r}` is about the last batch of an epoch, but steps "
                "have full batches. Leave one of `last` and `steps` out."
            )

    def build(self) -> AbstractBatching:
        """The batching that an algorithm takes; one epoch, if nothing was said."""
        if self.steps is not None:
            return Steps(self.steps, batch_size=self.batch_size)
        epochs = 1 if self.epochs is None else self.epochs
        return Epochs(epochs, batch_size=self.batch_size, last=self.last)
