"""The task that Zaccone et al. compare Mime on: CIFAR-10, a label for each client."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .. import nn
from ..data import ShardPartition
from ..models import ResNet
from ._classifier import Classifier
from ._images import cifar10_task
from ._mills_tasks import flipped_and_moved, normalized


class Padded(eqx.Module):
    """A shortcut without parameters: every second pixel, and as many channels of zeros
    before as behind, till there are twice as many."""

    def __call__(
        self, x: Float[Array, "height width channels"]
    ) -> Float[Array, "new_height new_width new_channels"]:
        around = x.shape[2] // 2
        return jnp.pad(x[::2, ::2], ((0, 0), (0, 0), (around, around)))


def _is_layer(x) -> bool:
    return isinstance(x, (nn.Conv2d, eqx.nn.Linear))


def _of_he(layer, key: PRNGKeyArray):
    """With normal weights of variance 2 over the number of inputs."""
    weight = layer.weight
    is_dense = isinstance(layer, eqx.nn.Linear)
    inputs = weight[0].size if is_dense else weight[..., 0].size
    drawn = jr.normal(key, weight.shape, weight.dtype) * (2 / inputs) ** 0.5
    return eqx.tree_at(lambda x: x.weight, layer, drawn)


def _shortcuts(model: ResNet) -> list:
    wider = [block for block in model.blocks if block.shortcut is not None]
    return [x for block in wider for x in (block.shortcut, block.shortcut_norm)]


def _resnet20(key: PRNGKeyArray) -> ResNet:
    """He et al.'s own ResNet-20 of CIFAR-10 but for its norms, and how it begins."""
    key, own = jr.split(key)
    model = ResNet.resnet20(10, key=key)
    padded = [Padded(), eqx.nn.Identity()] * (len(_shortcuts(model)) // 2)
    model = eqx.tree_at(_shortcuts, model, padded)
    parts, structure = jax.tree.flatten(model, is_leaf=_is_layer)
    keys = jr.split(own, len(parts))
    pairs = zip(parts, keys, strict=True)
    begun = [_of_he(x, key) if _is_layer(x) else x for x, key in pairs]
    return jax.tree.unflatten(structure, begun)


def _dense(model):
    return model.dense


TASKS = (
    cifar10_task(
        "cifar10-resnet20-dir0",
        _resnet20,
        ShardPartition(100, 1),
        "sorted by label, and cut into 100 clients of 500",
        Classifier(prepare=normalized, distort=flipped_and_moved, last=_dense),
    ),
)
