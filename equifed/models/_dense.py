"""Models of dense layers: logistic regression, and the perceptron of two layers."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_count, checked
from ._inputs import check_shape, image_of
from ._layers import linear


class LogisticRegression(eqx.Module):
    """One dense layer: multinomial logistic regression on an image's pixels.

    `LogisticRegression.emnist` (48,670 parameters) and `LogisticRegression.cifar100`
    (24 x 24 pixels, 172,900) are FedJAX's. The weights begin as haiku's do: normal, cut
    at two standard deviations of 1 / sqrt(fan-in); the biases are 0.
    """

    dense: eqx.nn.Linear
    image_shape: tuple[int, int, int] = eqx.field(static=True)

    @checked()
    def __init__(
        self, image_shape: Sequence[int], num_classes: int, *, key: PRNGKeyArray
    ):
        """**Arguments:**

        - `image_shape`: the height, the width and the channels of an image.
        - `num_classes`: the number of classes.
        - `key`: the randomness of the first parameters.
        """
        check_count("num_classes", num_classes)
        self.image_shape = check_shape(image_shape)
        self.dense = linear(math.prod(self.image_shape), num_classes, key=key)

    @classmethod
    @checked()
    def emnist(
        cls, *, only_digits: bool = False, key: PRNGKeyArray
    ) -> "LogisticRegression":
        """That of EMNIST: 62 classes, or 10 if only the digits are used."""
        return cls((28, 28, 1), 10 if only_digits else 62, key=key)

    @classmethod
    @checked()
    def cifar100(cls, *, key: PRNGKeyArray) -> "LogisticRegression":
        """That of CIFAR-100, on crops of 24 x 24 pixels."""
        return cls((24, 24, 3), 100, key=key)

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
        image = image_of(self, image, self.image_shape, self.dense.weight.dtype)
        return self.dense(jnp.ravel(image))


class MLP(eqx.Module):
    """Dense layers with ReLU in between, on an image's pixels.

    `MLP.emnist` (784-200-200-62, 209,662 parameters) is FedJAX's dense model, and the
    2NN of FedAvg's paper with more classes. The weights begin as haiku's do: normal,
    cut at two standard deviations of 1 / sqrt(fan-in); the biases are 0.
    """

    layers: tuple[eqx.nn.Linear, ...]
    image_shape: tuple[int, int, int] = eqx.field(static=True)

    @checked()
    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        *,
        hidden_sizes: Sequence[int] = (200, 200),
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `image_shape`: the height, the width and the channels of an image.
        - `num_classes`: the number of classes.
        - `hidden_sizes`: the sizes of the layers in between.
        - `key`: the randomness of the first parameters.
        """
        check_count("num_classes", num_classes)
        hidden = [check_count("hidden_sizes", size) for size in hidden_sizes]
        self.image_shape = check_shape(image_shape)
        sizes = [math.prod(self.image_shape), *hidden, num_classes]
        keys = jr.split(key, len(sizes) - 1)
        pairs = zip(sizes[:-1], sizes[1:], keys, strict=True)
        self.layers = tuple(linear(a, b, key=key) for a, b, key in pairs)

    @classmethod
    @checked()
    def emnist(cls, *, only_digits: bool = False, key: PRNGKeyArray) -> "MLP":
        """That of EMNIST: 62 classes, or 10 if only the digits are used."""
        return cls((28, 28, 1), 10 if only_digits else 62, key=key)

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
        image = image_of(self, image, self.image_shape, self.layers[0].weight.dtype)
        *hidden, last = self.layers
        x = jnp.ravel(image)
        for layer in hidden:
            x = jax.nn.relu(layer(x))
        return last(x)
