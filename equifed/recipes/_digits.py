"""The tasks that need no download: the embedded digits, by their writers."""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .. import nn
from ..data import digits
from ..models import MLP
from ._classifier import Classifier
from ._task import Data, Task


def scaled(image: Array) -> Array:
    """From 0 to 1, with an axis of channels."""
    return image.astype(jnp.float32)[..., None] / 16


def shifted(image: Array, key: PRNGKeyArray) -> Array:
    """Moved by up to one pixel: people write off-centre."""
    return nn.random_crop(image[..., None], 8, padding=1, key=key)[..., 0]


def _last(model):
    return model.layers[-1]


class DigitsCNN(eqx.Module):
    """Two convolutions of 16 and 32 channels, a pooling, 64 and the logits."""

    conv1: nn.Conv2d
    conv2: nn.Conv2d
    pool: nn.MaxPool2d
    dense: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, key: PRNGKeyArray):
        keys = jr.split(key, 4)
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, key=keys[0])
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, key=keys[1])
        self.pool = nn.MaxPool2d(2)
        self.dense = eqx.nn.Linear(512, 64, key=keys[2])
        self.last = eqx.nn.Linear(64, 10, key=keys[3])

    def __call__(
        self, image: Float[Array, "8 8 1"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " classes"]:
        del key
        x = jax.nn.relu(self.conv1(image.astype(self.dense.weight.dtype)))
        x = self.pool(jax.nn.relu(self.conv2(x)))
        return self.last(jax.nn.relu(self.dense(jnp.ravel(x))))


def _last_of_cnn(model):
    return model.last


def _dense(key: PRNGKeyArray) -> MLP:
    return MLP((8, 8, 1), 10, hidden_sizes=(64,), key=key)


def _read(folder: pathlib.Path | None) -> Data:
    """Two of the writers are held out, and a fifth of each other's digits."""
    del folder
    seen, unseen = digits().split_clients(2, seed=0)
    train, test = seen.split_examples(0.2, seed=0)
    return train, {"unseen": unseen, "test": test}


_CARD = {
    "data": "equifed.data.digits (UCI Machine Learning Repository, set 80)",
    "partition": "by writer: 12 train, 2 are held out",
    "licence": "CC BY 4.0",
    "cite": "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, 1998, "
    "doi:10.24432/C50P49",
    "reads": _read,
}
TASKS = (
    Task(
        name="digits-dense",
        make=_dense,
        **_CARD,
        **Classifier(prepare=scaled, last=_last, x="image", y="label").parts(),
    ),
    Task(
        name="digits-cnn",
        make=DigitsCNN,
        **_CARD,
        **Classifier(
            prepare=scaled, distort=shifted, last=_last_of_cnn, x="image", y="label"
        ).parts(),
    ),
)
