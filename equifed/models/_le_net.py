"""LeNet-5, the convolutional model of most partitioned MNIST."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .. import nn
from .._check import check_count, checked
from .._words import shown
from ._inputs import check_shape, image_of


class LeNet5(eqx.Module):
    """LeNet-5 in its present form, with ReLU and maxima.

    5x5x6 and 5x5x16, each with ReLU and the maximum over 2x2; dense layers of 120 and
    84, with ReLU; the logits. (LeCun et al. had tanh, means, and not all connections.)
    Grey images of 28 pixels are padded by 2 in the first convolution, so that there as
    on 32 pixels 400 numbers are left: 61,706 parameters for MNIST, and 62,006 for
    CIFAR-10. Parameters begin as Equinox's and PyTorch's layers do: uniform, up to
    1 / sqrt(fan-in).

    With `channels=(64, 64)` and `units=(384, 192)` it is the model of FedDyn's authors
    for CIFAR-10, with 797,962.
    """

    conv1: nn.Conv2d
    conv2: nn.Conv2d
    pool: nn.MaxPool2d
    layers: tuple[eqx.nn.Linear, ...]
    image_shape: tuple[int, int, int] = eqx.field(static=True)

    @checked()
    def __init__(
        self,
        image_shape: Sequence[int] = (28, 28, 1),
        num_classes: int = 10,
        *,
        channels: Sequence[int] = (6, 16),
        units: Sequence[int] = (120, 84),
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `image_shape`: the height, the width and the channels of an image. Below 32
            pixels images are padded by 2.
        - `num_classes`: the number of classes.
        - `channels`: those that the two convolutions make.
        - `units`: those of the two dense layers before the last.
        - `key`: the randomness of the first parameters.
        """
        height, width, colours = check_shape(image_shape, least=12)
        check_count("num_classes", num_classes)
        first, second = _two("channels", channels)
        units = _two("units", units)
        pad = 2 if min(height, width) < 32 else 0
        rows, columns = (((n + 2 * pad - 4) // 2 - 4) // 2 for n in (height, width))
        keys = jr.split(key, 5)
        self.image_shape = (height, width, colours)
        self.conv1 = nn.Conv2d(colours, first, 5, padding=pad, key=keys[0])
        self.conv2 = nn.Conv2d(first, second, 5, key=keys[1])
        self.pool = nn.MaxPool2d(2)
        sizes = [second * rows * columns, *units, num_classes]
        pairs = zip(sizes[:-1], sizes[1:], keys[2:], strict=True)
        self.layers = tuple(eqx.nn.Linear(a, b, key=key) for a, b, key in pairs)

    def __call__(
        self,
        image: Float[Array, "height width channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " classes"]:
        """The logits of one image.

        **Arguments:**

        - `image`: the image.
        - `key`: ignored; there as in models that need one.
        """
        del key
        x = image_of(self, image, self.image_shape, self.conv1.weight.dtype)
        for layer in (self.conv1, self.conv2):
            x = self.pool(jax.nn.relu(layer(x)))
        *hidden, last = self.layers
        x = jnp.ravel(x)
        for layer in hidden:
            x = jax.nn.relu(layer(x))
        return last(x)


def _two(name: str, numbers: Sequence[int]) -> tuple[int, int]:
    if len(numbers) != 2:
        raise ValueError(f"`{name}` must be two integers, got {shown(numbers)}.")
    first, second = (check_count(name, n) for n in numbers)
    return first, second
