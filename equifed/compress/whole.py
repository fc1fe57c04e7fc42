"""All arrays of a message as one vector."""

import jax.numpy as jnp
import jax.tree_util as jtu

from .._check import check_kind
from .._tree import wide_dtype
from .base import AbstractCompressor, AbstractLeafwise


class Whole(AbstractCompressor):
    """Joins all arrays of a message to one vector, which another one compresses.

    One range, one scale, one rotation, one choice of the largest numbers for all.

    **Arguments:**

    - `compressor`: one that compresses each array by itself, such as `TopK(0.01)`.
    """

    compressor: AbstractLeafwise

    def __check_init__(self):
        check_kind("compressor", self.compressor, AbstractLeafwise)

    def init(self, payload):
        return None

    def compress(self, payload, memory, *, key, round):
        leaves, structure = jtu.tree_flatten(payload)
        wide = [wide_dtype(x.dtype) for x in leaves]
        dtype = max(wide, key=lambda d: jnp.dtype(d).itemsize, default=jnp.float32)
        kinds = {jnp.dtype(x.dtype) for x in leaves}
        if len(kinds) == 1 and all(jnp.issubdtype(d, jnp.floating) for d in kinds):
            dtype = kinds.pop()  # no wider than it was
        parts = [x.reshape(-1).astype(dtype) for x in leaves]
        whole = jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)
        out, _, sent = self.compressor.compress(whole, None, key=key, round=round)
        decoded, start = [], 0
        for x, kind in zip(leaves, wide, strict=True):
            part = out[start : start + x.size]
            decoded.append(part.reshape(x.shape).astype(kind))
            start += x.size
        return jtu.tree_unflatten(structure, decoded), memory, sent
