"""Group normalisation of images with the channels last."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._tree import wide_dtype


class GroupNorm(eqx.Module):
    """`equinox.nn.GroupNorm` of an image `(height, width, channels)`.

    It needs no statistics of a batch, which clients would have to share.
    """

    weight: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    num_groups: int = eqx.field(static=True)

    def __init__(self, num_groups: int, channels: int):
        self.weight, self.bias = jnp.ones(channels), jnp.zeros(channels)
        self.num_groups = num_groups

    def __call__(
        self, x: Float[Array, "height width channels"]
    ) -> Float[Array, "height width channels"]:
        height, width, channels = x.shape
        groups = x.reshape(height * width, self.num_groups, -1)
        groups = groups.astype(wide_dtype(x.dtype))
        mean = groups.mean((0, 2), keepdims=True)
        variance = jnp.square(groups - mean).mean((0, 2), keepdims=True)
        normal = (groups - mean) * jax.lax.rsqrt(variance + 1e-5)
        normal = normal.reshape(height, width, channels).astype(x.dtype)
        return normal * self.weight[None, None] + self.bias[None, None]
