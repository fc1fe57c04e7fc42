"""The tasks of images that Mills et al. compare MimeLite on: EMNIST by writer, and
CIFAR-100, with a network of two convolutions that are each pooled."""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .. import nn
from ..data import sets
from ._classifier import Classifier
from ._images import as_is, CIFAR100_CARD, EMNIST_CARD, files_of
from ._task import Data, Task


class PooledCNN(eqx.Module):
    """3x3x32, the maximum over 2x2, 3x3x64, the maximum over 2x2, 512 units and the
    logits, with ReLU; no padding, no dropout."""

    conv1: nn.Conv2d
    conv2: nn.Conv2d
    pool: nn.MaxPool2d
    dense: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(
        self, size: int, channels: int, num_classes: int, *, key: PRNGKeyArray
    ):
        """For images of `size` times `size` pixels."""
        keys = jr.split(key, 4)
        left = ((size - 2) // 2 - 2) // 2
        self.conv1 = nn.Conv2d(channels, 32, 3, key=keys[0])
        self.conv2 = nn.Conv2d(32, 64, 3, key=keys[1])
        self.pool = nn.MaxPool2d(2)
        self.dense = eqx.nn.Linear(left * left * 64, 512, key=keys[2])
        self.last = eqx.nn.Linear(512, num_classes, key=keys[3])

    def __call__(
        self,
        image: Float[Array, "height width channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " classes"]:
        del key
        x = self.pool(jax.nn.relu(self.conv1(image.astype(self.dense.weight.dtype))))
        x = self.pool(jax.nn.relu(self.conv2(x)))
        return self.last(jax.nn.relu(self.dense(jnp.ravel(x))))


def _of_emnist(key: PRNGKeyArray) -> PooledCNN:
    return PooledCNN(28, 1, 62, key=key)


def _of_cifar100(key: PRNGKeyArray) -> PooledCNN:
    return PooledCNN(32, 3, 100, key=key)


def _last(model):
    return model.last


def _writers(folder: pathlib.Path | None) -> Data:
    clients = sets.emnist(data_files=files_of(folder, "*.parquet"))
    clients = clients.filter(min_examples=15)[:3000]
    train, test = clients.split_examples(0.2, seed=0)
    return train, {"test": test}


_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def normalized(image: Array) -> Array:
    """From 0 to 1, and then by a mean and a deviation of each channel."""
    mean, std = (jnp.asarray(x)[None, None] for x in (_MEAN, _STD))
    return (image.astype(jnp.float32) / 255 - mean) / std


def flipped_and_moved(image: Array, key: PRNGKeyArray) -> Array:
    """One of two is flipped, and all are moved by up to 4 pixels."""
    flip, crop = jr.split(key)
    return nn.random_crop(nn.random_flip(image, key=flip), 32, padding=4, key=crop)


_IMAGES = Classifier(prepare=normalized, distort=flipped_and_moved, last=_last)
TASKS = (
    Task(
        name="emnist-pooled",
        make=_of_emnist,
        **{
            **EMNIST_CARD,
            "reads": _writers,
            "partition": "by writer, 3,000 of those with 15 examples or more; a fifth "
            "of each one's examples are for the test",
        },
        **Classifier(prepare=as_is, last=_last).parts(),
    ),
    Task(
        name="cifar100-pooled",
        make=_of_cifar100,
        **CIFAR100_CARD,
        **_IMAGES.parts(),
    ),
)
