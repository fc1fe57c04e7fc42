"""The loss, the metrics and the logits of a model that classifies images."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.random as jr
from jaxtyping import Array

from .._measures import accuracy, cross_entropy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """An image of the column `x` is prepared, and in training distorted before that.

    **Arguments:**

    - `prepare`: makes what the model takes of an image.
    - `distort`: changes an image by a key, in training alone.
    - `last`: the model's last layer.
    - `x`, `y`: the columns of images and of labels.
    """

    prepare: Callable[[Array], Array]
    distort: Callable[[Array, Any], Array] | None = None
    last: Callable[[Any], Any] | None = None
    x: str = "x"
    y: str = "y"

    def loss(self, model, example, key):
        logits = self.logits(model, example, key)
        right = accuracy(logits, example[self.y])
        return cross_entropy(logits, example[self.y]), {"accuracy": right}

    def metrics(self, model, example, key):
        logits = model(self.prepare(example[self.x]), key=key)
        right = accuracy(logits, example[self.y])
        return cross_entropy(logits, example[self.y]), {"accuracy": right}

    def logits(self, model, example, key):
        image = example[self.x]
        if self.distort is not None:
            key, own = jr.split(key)
            image = self.distort(image, own)
        return model(self.prepare(image), key=key)

    def representation(self, model, example, key):
        """What the last layer is given."""
        assert self.last is not None
        bare = eqx.tree_at(self.last, model, eqx.nn.Identity())
        return self.logits(bare, example, key)

    def parts(self) -> dict[str, Any]:
        """What a task has of it."""
        shape = None if self.last is None else self.representation
        return {
            "loss": self.loss,
            "metrics": self.metrics,
            "logits": self.logits,
            "representation": shape,
            "head": self.last,
            "label": self.y,
        }
