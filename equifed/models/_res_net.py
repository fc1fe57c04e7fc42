"""Residual networks with group normalisation, for images of 32 pixels."""

import functools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .. import nn
from .._check import check_count, checked
from .._words import shown
from ._group_norm import GroupNorm
from ._inputs import image_of


class _Block(eqx.Module):
    """Two convolutions beside a shortcut, which is one by one where sizes change."""

    conv1: nn.Conv2d
    norm1: GroupNorm
    conv2: nn.Conv2d
    norm2: GroupNorm
    shortcut: nn.Conv2d | None
    shortcut_norm: GroupNorm | None

    def __init__(
        self, before: int, after: int, stride: int, num_groups: int, key: PRNGKeyArray
    ):
        keys = jr.split(key, 3)
        norm = functools.partial(GroupNorm, num_groups, after)
        self.conv1, self.norm1 = _conv3(before, after, stride, keys[0]), norm()
        self.conv2, self.norm2 = _conv3(after, after, 1, keys[1]), norm()
        changes = stride > 1 or before != after
        self.shortcut_norm = norm() if changes else None
        self.shortcut = (
            nn.Conv2d(before, after, 1, stride, use_bias=False, key=keys[2])
            if changes
            else None
        )

    def __call__(
        self, x: Float[Array, "height width before"]
    ) -> Float[Array, "new_height new_width after"]:
        y = self.norm2(self.conv2(jax.nn.relu(self.norm1(self.conv1(x)))))
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return jax.nn.relu(x + y)


class ResNet(eqx.Module):
    r"""A residual network with group normalisation in place of that of a batch.

    A 3x3 convolution, stages of blocks of two (the first block of all stages but the
    first halves the image), the mean over the pixels, the logits. As for CIFAR, there
    is no pooling in front. A block of width $w$ has $18 w^2 + 4 w$ parameters if its
    input has that width, and $9 v w + 9 w^2 + 4 w$ and a shortcut's $v w + 2 w$ if it
    has $v$. So `ResNet.resnet18` has, for 10 classes, $1{,}856 + 147{,}968 + 525{,}568
    + 2{,}099{,}712 + 8{,}393{,}728 + 5{,}130 = 11{,}173{,}962$ parameters (11,220,132
    for 100), and `ResNet.resnet20` 272,474, with a convolution in each shortcut that
    widens. Weights begin as Equinox's and PyTorch's layers do: uniform, up to
    1 / sqrt(fan-in).

    ??? cite "References"

        He et al., *Deep residual learning for image recognition* (1512.03385); Hsieh et
        al., *The non-IID data quagmire of decentralized machine learning* (1910.00189),
        on groups; Reddi et al., *Adaptive federated optimization* (2003.00295), who
        have two of them.
    """

    conv: nn.Conv2d
    norm: GroupNorm
    blocks: tuple[_Block, ...]
    dense: eqx.nn.Linear
    in_channels: int = eqx.field(static=True)

    @checked()
    def __init__(
        self,
        widths: Sequence[int],
        num_blocks: Sequence[int],
        num_classes: int,
        *,
        num_groups: int = 2,
        in_channels: int = 3,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `widths`: the channels of each stage.
        - `num_blocks`: the blocks of each stage.
        - `num_classes`: the number of classes.
        - `num_groups`: the groups of each normalisation, which must divide the widths.
        - `in_channels`: the channels of an image.
        - `key`: the randomness of the first parameters.
        """
        for name, x in (
            ("num_classes", num_classes),
            ("num_groups", num_groups),
            ("in_channels", in_channels),
        ):
            check_count(name, x)
        if not widths or len(widths) != len(num_blocks):
            raise ValueError(
                "`widths` and `num_blocks` must have a number for each stage, got "
                f"{shown(widths)} and {shown(num_blocks)}."
            )
        for width in widths:
            if check_count("widths", width) % num_groups:
                raise ValueError(
                    f"`num_groups` must divide all `widths`, got {num_groups} for a "
                    f"width of {width}."
                )
        counts = [check_count("num_blocks", n) for n in num_blocks]
        keys = jr.split(key, sum(counts) + 2)
        before, blocks = widths[0], []
        for stage, (width, count) in enumerate(zip(widths, counts, strict=True)):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                made = keys[len(blocks)]
                blocks.append(_Block(before, width, stride, num_groups, made))
                before = width
        self.conv = _conv3(in_channels, widths[0], 1, keys[-2])
        self.norm = GroupNorm(num_groups, widths[0])
        self.blocks = tuple(blocks)
        self.dense = eqx.nn.Linear(widths[-1], num_classes, key=keys[-1])
        self.in_channels = in_channels

    @classmethod
    @checked()
    def resnet18(
        cls,
        num_classes: int = 10,
        *,
        num_groups: int = 2,
        in_channels: int = 3,
        key: PRNGKeyArray,
    ) -> "ResNet":
        """ResNet-18: stages of 64, 128, 256 and 512 channels, two blocks each."""
        sizes = {"num_groups": num_groups, "in_channels": in_channels}
        return cls((64, 128, 256, 512), (2, 2, 2, 2), num_classes, **sizes, key=key)

    @classmethod
    @checked()
    def resnet20(
        cls,
        num_classes: int = 10,
        *,
        num_groups: int = 2,
        in_channels: int = 3,
        key: PRNGKeyArray,
    ) -> "ResNet":
        """ResNet-20: stages of 16, 32 and 64 channels, three blocks each."""
        sizes = {"num_groups": num_groups, "in_channels": in_channels}
        return cls((16, 32, 64), (3, 3, 3), num_classes, **sizes, key=key)

    def __call__(
        self,
        image: Float[Array, "height width channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " classes"]:
        """The logits of one image, of any size.

        **Arguments:**

        - `image`: the image.
        - `key`: ignored; there as in models that need one.
        """
        del key
        shape = (None, None, self.in_channels)
        x = image_of(self, image, shape, self.conv.weight.dtype)
        x = jax.nn.relu(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.dense(x.mean((0, 1)))


def _conv3(before: int, after: int, stride: int, key: PRNGKeyArray) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, padding=1, use_bias=False, key=key)
