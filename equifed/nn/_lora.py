"""Which layers of a model learn a change of low rank, and the model without them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from .._check import check_count, check_number, checked
from .._selected import asked, selected
from .._tree import wide_dtype
from .._types import Model
from .._words import shown
from ._lora_layer import Base, fresh_a, is_embedding, is_lora, layers_of, LoRA


@checked()
def lora(
    model: Model,
    rank: int,
    *,
    where: Callable[[Model], PyTree] | None = None,
    by: Callable[[str, Base], bool] | None = None,
    alpha: float | int | None = None,
    key: PRNGKeyArray,
) -> Model:
    r"""Gives layers of a model a change of low rank, each a [`equifed.nn.LoRA`][].

    $A$ is Gaussian, of the variance 1 over the number of inputs (of an embedding 1), so
    that $A x$ is as large as $x$; the paper leaves it open. $B$ is 0: at first the
    model computes what it did. Both are of float32 where the layer is of fewer bits,
    and of the layer's dtype otherwise.

    Nothing is frozen by it: that is said with `equifed.roles(model,
    shared=equifed.nn.adapters)`.

    **Arguments:**

    - `model`: the model, or a part of it. Layers that are stacked along leading axes
        of their weights, for `jax.lax.scan`, are adapted each by itself.
    - `rank`: $r$, at most the smaller size of each layer.
    - `where`: which layers, as a function of the model that returns a part of it, or
        several (`lambda m: m.blocks`): all `equinox.nn.Linear` and
        `equinox.nn.Embedding` in there. By default each `Linear` of the model.
    - `by`: in place of it, a function of a layer's path (`".layers[0]"`) and the layer
        that says whether it is one of them.
    - `alpha`: $\alpha$; $r$ if not given.
    - `key`: the randomness of $A$.

    **Raises:**

    `ValueError` if there is no layer, or none is chosen, or one is too small for the
    rank, or has a change already, or has a weight or a call of another kind; or if `by`
    cannot be called or says neither True nor False.

    !!! example

        ```python
        adapted = eqf.nn.lora(model, 8, where=lambda m: m.blocks, key=jr.key(1))
        roles = eqf.roles(adapted, shared=eqf.nn.adapters)
        ...
        model = eqf.nn.merge(trained)
        ```

    ??? cite "Reference"

        [LoRA: Low-Rank Adaptation of Large Language
        Models](https://arxiv.org/abs/2106.09685)

        ```bibtex
        @inproceedings{hu2022lora,
            title={{LoRA}: {L}ow-{R}ank {A}daptation of {L}arge {L}anguage {M}odels},
            author={Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu,
                    Zeyuan and Li, Yuanzhi and Wang, Shean and Wang, Lu and Chen,
                    Weizhu},
            booktitle={ICLR},
            year={2022},
        }
        ```
    """
    rank = check_count("rank", rank)
    alpha = rank if alpha is None else alpha
    check_number("alpha", alpha, least=0, strict=True)
    alpha = float(alpha)
    nodes, structure = jtu.tree_flatten_with_path(model, is_leaf=_is_layer)
    layers = [(jtu.keystr(path), x) for path, x in nodes if _is_layer(x)]
    chosen = _chosen(model, layers, where, by)
    keys = iter(jr.split(key, len(chosen)))
    adapted = {p: _adapted(p, x, rank, alpha, next(keys)) for p, x in chosen.items()}
    leaves = [adapted.get(jtu.keystr(path), x) for path, x in nodes]
    return jtu.tree_unflatten(structure, leaves)


def merge(model: Model) -> Model:
    r"""The model with each [`equifed.nn.LoRA`][] as one layer again, of the weight
    $W + \frac{\alpha}{r} B A$ in the dtype of $W$.

    **Raises:**

    `ValueError` if there is none.
    """
    if not layers_of(model):
        raise ValueError(
            "`model` has no layer with a change of low rank to merge, got "
            f"{shown(model)}. `equifed.nn.lora` makes them."
        )
    return jtu.tree_map(
        lambda x: _merged(x) if is_lora(x) else x, model, is_leaf=is_lora
    )


def adapters(model: Model) -> tuple[PyTree, ...]:
    """The $A$ and $B$ of all [`equifed.nn.LoRA`][] of a model: it says which leaves
    have a role, as [`equifed.roles`][] takes it.

    !!! example

        ```python
        roles = eqf.roles(model, shared=eqf.nn.adapters)  # All else is frozen.
        ```
    """
    return (*lora_a(model), *lora_b(model))


def lora_a(model: Model) -> tuple[PyTree, ...]:
    """The $A$ alone: see [`equifed.nn.adapters`][]."""
    return tuple(x.a for x in layers_of(model))


def lora_b(model: Model) -> tuple[PyTree, ...]:
    """The $B$ alone: see [`equifed.nn.adapters`][]."""
    return tuple(x.b for x in layers_of(model))


def _is_layer(x: Any) -> bool:
    return isinstance(x, LoRA | eqx.nn.Linear | eqx.nn.Embedding)


def _chosen(
    model: Model, layers: list[tuple[str, Any]], where: Any, by: Any
) -> dict[str, Any]:
    """The layers that are to be adapted, by their paths."""
    if not layers:
        raise ValueError(
            "`model` has no `equinox.nn.Linear` or `equinox.nn.Embedding` to adapt, "
            f"got {shown(model)}."
        )
    if where is not None and by is not None:
        raise ValueError(
            "`where` and `by` both say which layers are adapted. Give one of them."
        )
    if where is not None:
        named = set(selected("where", where, model))
        ends = (".weight", ".base.weight")
        chosen = [(p, x) for p, x in layers if named & {p + end for end in ends}]
    elif by is not None:
        chosen = [(path, x) for path, x in layers if _says(by, path, x)]
    else:
        chosen = [(p, x) for p, x in layers if isinstance(x, LoRA | eqx.nn.Linear)]
    if not chosen and where is None and by is None:
        raise ValueError(
            "`model` has embeddings and no `equinox.nn.Linear`, which alone are "
            "adapted unless others are named. Give `where=lambda m: m` for all of them."
        )
    if not chosen:
        name, got = ("by", by) if by is not None else ("where", where)
        known = ", ".join(f"`{path or 'the model'}`" for path, _ in layers[:4])
        raise ValueError(
            f"`{name}` chooses no `equinox.nn.Linear` or `equinox.nn.Embedding` of the "
            f"model, got {shown(got)}. The model has {len(layers)}: {known}"
            f"{', ...' if len(layers) > 4 else ''}."
        )
    _check_no_norm(model, [path for path, _ in chosen])
    return dict(chosen)


def _check_no_norm(model: Model, chosen: list[str]) -> None:
    """Refuses layers whose weight another one replaces before it calls them."""
    nodes, _ = jtu.tree_flatten_with_path(model, is_leaf=_is_norm)
    for above, norm in nodes:
        inside = f"{jtu.keystr(above)}.layer"
        if _is_norm(norm) and inside in chosen:
            raise ValueError(
                f"`{inside}` cannot be adapted: `{type(norm).__name__}` makes its "
                "weight from that of the layer, and knows nothing of a change beside "
                "it. Leave it out by `where`."
            )


def _is_norm(x: Any) -> bool:
    return isinstance(x, eqx.nn.WeightNorm | eqx.nn.SpectralNorm)


def _says(by: Callable[[str, Base], bool], path: str, layer: Any) -> bool:
    says = asked("by", by, path, layer)
    if not isinstance(says, bool | np.bool_):
        raise ValueError(
            f"`by` must say True or False of `{path or 'the model'}`, got "
            f"{shown(says)}. The roles of arrays are said by `equifed.roles`."
        )
    return bool(says)


def _adapted(path: str, x: Any, rank: int, alpha: float, key: PRNGKeyArray) -> LoRA:
    where = path or "the model"
    if is_lora(x):
        raise ValueError(
            f"`{where}` has a change of rank {x.rank} already. `equifed.nn.merge` "
            "makes it one weight with it."
        )
    if not jnp.issubdtype(getattr(x.weight, "dtype", bool), jnp.floating):
        raise ValueError(
            f"The weight of `{where}` must be floating-point numbers, which a change "
            f"is added to, got {shown(x.weight)}. Leave the layer out by `where`."
        )
    kind = eqx.nn.Embedding if is_embedding(x) else eqx.nn.Linear
    if type(x).__call__ is not kind.__call__:
        raise ValueError(
            f"`{where}` is a `{type(x).__name__}`, which computes something else than "
            f"an `equinox.nn.{kind.__name__}`. Leave it out by `where`, or have it "
            "hold a plain one."
        )
    *axes, rows, columns = x.weight.shape
    if rank > min(rows, columns):
        raise ValueError(
            f"`rank` must be at most {min(rows, columns)} for `{where}`, whose weight "
            f"is {rows} x {columns}, got {rank}. Give a smaller one, or leave the "
            "layer out by `where`."
        )
    outputs, inputs = (columns, rows) if is_embedding(x) else (rows, columns)
    dtype = wide_dtype(x.weight.dtype)
    a = jnp.zeros((*axes, rank, inputs), dtype)
    b = jnp.zeros((*axes, outputs, rank), dtype)
    layer = LoRA(x, a, b, rank, alpha)
    return eqx.tree_at(lambda layer: layer.a, layer, fresh_a(layer, key))


def _merged(layer: LoRA) -> Base:
    return eqx.tree_at(lambda base: base.weight, layer.base, layer.weight)
