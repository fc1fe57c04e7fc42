"""A small vision transformer."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_count, checked
from ._inputs import check_shape, image_of


class _Layer(eqx.Module):
    """Attention and a perceptron, each behind a normalisation and beside a shortcut."""

    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear

    def __init__(self, dim: int, num_heads: int, key: PRNGKeyArray):
        keys = jr.split(key, 3)
        self.norm1, self.norm2 = eqx.nn.LayerNorm(dim), eqx.nn.LayerNorm(dim)
        self.attention = eqx.nn.MultiheadAttention(
            num_heads,
            dim,
            use_query_bias=True,
            use_key_bias=True,
            use_value_bias=True,
            use_output_bias=True,
            key=keys[0],
        )
        self.dense1 = eqx.nn.Linear(dim, 4 * dim, key=keys[1])
        self.dense2 = eqx.nn.Linear(4 * dim, dim, key=keys[2])

    def __call__(self, x: Float[Array, "patches dim"]) -> Float[Array, "patches dim"]:
        y = jax.vmap(self.norm1)(x)
        x = x + self.attention(y, y, y)
        y = jax.nn.gelu(jax.vmap(self.dense1)(jax.vmap(self.norm2)(x)))
        return x + jax.vmap(self.dense2)(y)


class ViT(eqx.Module):
    r"""A vision transformer: patches, layers of attention, and the mean over patches.

    It has learned positions, and so takes images of one size. A layer of width $d$ has
    $12 d^2 + 13 d$ parameters; with the defaults the model has 2,693,194:
    $6 \times 444{,}864$, 9,408 for patches of 4 x 4 x 3, 12,288 for 64 positions, 384
    for a last normalisation, 1,930 for the logits. Parameters begin as Equinox's and
    PyTorch's layers do, uniform up to 1 / sqrt(fan-in); positions normal with a
    standard deviation of 0.02.

    ??? cite "References"

        Dosovitskiy et al., *An image is worth 16x16 words* (2010.11929); Beyer et al.,
        *Better plain ViT baselines for ImageNet-1k* (2205.01580), for the mean in place
        of a token.
    """

    patch: eqx.nn.Linear
    positions: Float[Array, "patches dim"]
    layers: tuple[_Layer, ...]
    norm: eqx.nn.LayerNorm
    dense: eqx.nn.Linear
    patch_size: int = eqx.field(static=True)
    image_shape: tuple[int, int, int] = eqx.field(static=True)

    @checked()
    def __init__(
        self,
        image_shape: Sequence[int] = (32, 32, 3),
        num_classes: int = 10,
        *,
        patch_size: int = 4,
        dim: int = 192,
        num_layers: int = 6,
        num_heads: int = 3,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `image_shape`: the height, the width and the channels of an image.
        - `num_classes`: the number of classes.
        - `patch_size`: the side of a patch, which must divide height and width.
        - `dim`: the width of a layer; its perceptron has four times as much inside.
        - `num_layers`: the number of layers.
        - `num_heads`: the heads of each attention, which must divide `dim`.
        - `key`: the randomness of the first parameters.
        """
        height, width, channels = check_shape(image_shape)
        for name, x in (
            ("num_classes", num_classes),
            ("patch_size", patch_size),
            ("dim", dim),
            ("num_layers", num_layers),
            ("num_heads", num_heads),
        ):
            check_count(name, x)
        if height % patch_size or width % patch_size:
            raise ValueError(
                f"`patch_size` must divide the image's sides, got {patch_size} for "
                f"{height} x {width} pixels."
            )
        if dim % num_heads:
            raise ValueError(
                f"`num_heads` must divide `dim`, got {num_heads} for {dim}."
            )
        num_patches = height // patch_size * (width // patch_size)
        keys = jr.split(key, num_layers + 3)
        size = patch_size * patch_size * channels
        self.patch = eqx.nn.Linear(size, dim, key=keys[0])
        self.positions = 0.02 * jr.normal(keys[1], (num_patches, dim))
        self.layers = tuple(_Layer(dim, num_heads, key) for key in keys[3:])
        self.norm = eqx.nn.LayerNorm(dim)
        self.dense = eqx.nn.Linear(dim, num_classes, key=keys[2])
        self.patch_size = patch_size
        self.image_shape = (height, width, channels)

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
        image = image_of(self, image, self.image_shape, self.patch.weight.dtype)
        height, width, channels = self.image_shape
        size = self.patch_size
        x = image.reshape(height // size, size, width // size, size, channels)
        x = jnp.swapaxes(x, 1, 2).reshape(len(self.positions), -1)
        x = jax.vmap(self.patch)(x) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.dense(jax.vmap(self.norm)(x).mean(0))
