"""The convolutional model of EMNIST and of CIFAR-10."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .. import nn
from .._check import check_count, check_number, checked
from .._words import shown
from ._inputs import check_shape, image_of, two_keys
from ._layers import conv, linear


class ConvNet(eqx.Module):
    """Two convolutions, a pooling and two dense layers, with dropout.

    3x3x32 and 3x3x64, both without padding and with ReLU; the maximum over 2x2; dropout
    of a quarter; 128 with ReLU; dropout of a half; the logits. `ConvNet.emnist` is that
    of Reddi et al. (2021) and of FedJAX, with 1,206,590 parameters (1,199,882 for the
    digits alone), and `ConvNet.cifar10` that of pfl-research's benchmark, with
    1,626,442. The weights begin as haiku's do: normal, cut at two standard deviations
    of 1 / sqrt(fan-in); the biases are 0.

    Dropout takes its randomness from the loss's key, which is another for each example
    and step:

    !!! example

        ```python
        def loss(model, example, key):
            logits = model(example["image"], key=key)
            return eqf.cross_entropy(logits, example["label"])
        ```

    An evaluation puts models into inference mode, in which nothing is left out.
    """

    conv1: nn.Conv2d
    conv2: nn.Conv2d
    pool: nn.MaxPool2d
    dropout1: eqx.nn.Dropout
    dense1: eqx.nn.Linear
    dropout2: eqx.nn.Dropout
    dense2: eqx.nn.Linear
    image_shape: tuple[int, int, int] = eqx.field(static=True)

    @checked()
    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        *,
        dropout: Sequence[float] = (0.25, 0.5),
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `image_shape`: the height, the width and the channels of an image.
        - `num_classes`: the number of classes.
        - `dropout`: the shares that are left out behind the pooling and behind the
            first dense layer; `(0, 0)` for none.
        - `key`: the randomness of the first parameters.
        """
        height, width, channels = check_shape(image_shape, least=6)
        check_count("num_classes", num_classes)
        if len(dropout) != 2:
            raise ValueError(f"`dropout` must be two numbers, got {shown(dropout)}.")
        for rate in dropout:
            check_number("dropout", rate, least=0, below=1)
        keys = jr.split(key, 4)
        flat = (height - 4) // 2 * ((width - 4) // 2) * 64
        self.image_shape = (height, width, channels)
        self.conv1 = conv(channels, 32, 3, key=keys[0])
        self.conv2 = conv(32, 64, 3, key=keys[1])
        self.pool = nn.MaxPool2d(2)
        self.dense1 = linear(flat, 128, key=keys[2])
        self.dense2 = linear(128, num_classes, key=keys[3])
        self.dropout1, self.dropout2 = (eqx.nn.Dropout(float(x)) for x in dropout)

    @classmethod
    @checked()
    def emnist(cls, *, only_digits: bool = False, key: PRNGKeyArray) -> "ConvNet":
        """That of EMNIST: 62 classes, or 10 if only the digits are used."""
        return cls((28, 28, 1), 10 if only_digits else 62, key=key)

    @classmethod
    @checked()
    def cifar10(cls, *, key: PRNGKeyArray) -> "ConvNet":
        """That of CIFAR-10: 32 x 32 pixels in colour, 10 classes."""
        return cls((32, 32, 3), 10, key=key)

    def __call__(
        self,
        image: Float[Array, "height width channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " classes"]:
        """The logits of one image.

        **Arguments:**

        - `image`: the image.
        - `key`: which units are left out. Not needed in inference mode, nor without
            dropout.
        """
        image = image_of(self, image, self.image_shape, self.conv1.weight.dtype)
        dropouts = (self.dropout1, self.dropout2)
        random = any(x.p > 0 and not x.inference for x in dropouts)
        key1, key2 = two_keys(self, key, random=random)
        x = jax.nn.relu(self.conv2(jax.nn.relu(self.conv1(image))))
        x = self.dropout1(jnp.ravel(self.pool(x)), key=key1)
        x = self.dropout2(jax.nn.relu(self.dense1(x)), key=key2)
        return self.dense2(x)
