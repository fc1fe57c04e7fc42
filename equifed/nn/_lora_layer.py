r"""A layer that is frozen, and learns a change of low rank.

A large weight $W$ is fine-tuned by training two thin matrices in its place: the layer
computes $W x + \frac{\alpha}{r} B A x$, of which $W$ stays as it is. What is trained,
sent, kept and checkpointed is $A$ and $B$; afterwards the sum is one weight again.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import wadler_lindig as wl
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped


Base = eqx.nn.Linear | eqx.nn.Embedding


class LoRA(eqx.Module):
    r"""A linear layer, or an embedding, with a change of low rank.

    $$y = W x + b + \frac{\alpha}{r} B A x$$

    It is called as the layer in it is. An embedding is a linear layer of the one-hot
    vector of an index, so that $A x$ is a column of $A$. [`equifed.nn.lora`][] makes
    it.
    """

    base: Base
    """The layer as it was."""
    a: Float[Array, "... rank input"]
    """$A$."""
    b: Float[Array, "... output rank"]
    """$B$."""
    rank: int = eqx.field(static=True)
    alpha: float = eqx.field(static=True)

    @property
    def scale(self) -> float:
        r"""$\alpha / r$."""
        return self.alpha / self.rank

    @property
    def weight(self) -> Float[Array, "..."]:
        """That of `base` with the change, for models that read it."""
        return added(self.base.weight, self.delta)

    @property
    def delta(self) -> Float[Array, "..."]:
        r"""$\frac{\alpha}{r} B A$, laid out as the weight of `base` is."""
        change = self.scale * (self.b @ self.a)
        return change.mT if is_embedding(self.base) else change

    @jax.named_scope("equifed.nn.LoRA")
    def __call__(
        self, x: Shaped[Array, "..."], *, key: PRNGKeyArray | None = None
    ) -> Array:
        """What `base` takes, and what it returns, in its dtype; the change is computed
        in the dtype of `a` and `b`."""
        y = self.base(x, key=key)
        if is_embedding(self.base):
            low = self.a[:, x]
        else:
            low = self.a @ jnp.reshape(x, (-1,)).astype(self.a.dtype)
        change = self.scale * jnp.reshape(self.b @ low, y.shape)
        return (y.astype(change.dtype) + change).astype(y.dtype)

    def __pdoc__(self, **kwargs: Any) -> wl.AbstractDoc:
        return wl.TextDoc(repr(self))

    def __repr__(self) -> str:
        inputs, outputs = _sizes(self.base)
        kind = f"{type(self.base).__name__}({inputs}, {outputs})"
        own, of = (_count(x) for x in ((self.a, self.b), self.base))
        size = f"{own:,} parameters beside {of:,}"
        return f"LoRA({kind}, rank={self.rank}, alpha={self.alpha:g}, {size})"


def is_lora(x: Any) -> bool:
    return isinstance(x, LoRA)


def fresh_a(layer: LoRA, key: PRNGKeyArray) -> Float[Array, "... rank input"]:
    """An $A$ drawn anew."""
    size = 1 if is_embedding(layer.base) else layer.a.shape[-1]
    return jr.normal(key, layer.a.shape, layer.a.dtype) / math.sqrt(size)


def product_of(layer: LoRA, delta: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$B A$, of a change of the layer's weight."""
    return (delta.mT if is_embedding(layer.base) else delta) / layer.scale


def layers_of(tree: PyTree) -> list[LoRA]:
    return [x for x in jtu.tree_leaves(tree, is_leaf=is_lora) if is_lora(x)]


def added(weight: Float[Array, "..."], delta: Float[Array, "..."]) -> Array:
    """The weight with a change of it, in its own dtype."""
    return (weight.astype(delta.dtype) + delta).astype(weight.dtype)


def is_embedding(x: Any) -> bool:
    return isinstance(x, eqx.nn.Embedding)


def _sizes(base: Base) -> tuple[int | str, int | str]:
    if isinstance(base, eqx.nn.Embedding):
        return base.num_embeddings, base.embedding_size
    return base.in_features, base.out_features


def _count(tree: PyTree) -> int:
    kinds = jax.Array | jax.ShapeDtypeStruct
    return sum(x.size for x in jtu.tree_leaves(tree) if isinstance(x, kinds))
