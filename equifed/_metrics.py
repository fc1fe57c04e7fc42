"""Metrics are sums, and functions of sums.

A metric of one example is a small PyTree of numbers; the metric of many examples is
the leaf-by-leaf sum of theirs; what a person wants to read is `compute()` of that sum.
An average kept as (total, weight) is therefore exact over any grouping: examples into
batches, batches into clients, clients into devices. And an average over nothing knows
that it is one: it is NaN, where 0 would read as the best loss of all.
"""

import abc
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import wadler_lindig as wl
from jaxtyping import Array, ArrayLike, Float

from ._overrides import inherit_types
from ._tree import difference, floating, rowwise, tree_cast_like, wide_dtype
from ._words import message, of_type, shown


def _wide(x: ArrayLike) -> Array:
    """Sums are kept in float32 at least, whatever the model computes in."""
    x = _real(x)
    return x.astype(wide_dtype(x.dtype))


def _real(x: ArrayLike) -> Array:
    if not isinstance(x, str | bytes):
        with contextlib.suppress(TypeError, ValueError):
            array = jnp.asarray(x)
            if not jnp.iscomplexobj(array):
                return array
    raise TypeError(
        f"A metric is made of real numbers or arrays of them, got {shown(x)}."
    )


class AbstractMetric(eqx.Module):
    """A statistic whose leaves are added when two of them are merged."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def compute(self) -> Array:
        """What the sum says."""

    def merge(self, other: "AbstractMetric") -> "AbstractMetric":
        """The metric of both sets of examples together."""
        if type(other) is not type(self):
            raise TypeError(message("other", of_type(type(self)), other))
        same = jtu.tree_structure(other) == jtu.tree_structure(self)
        like = tree_cast_like(other, self) if same else other
        if (unlike := difference("other", like, self)) is not None:
            raise ValueError(
                f"Metrics are added number by number, and must be alike: {unlike}."
            )
        return jtu.tree_map(jnp.add, self, other)

    def __pdoc__(self, **kwargs: Any) -> wl.AbstractDoc | None:
        # What it says, where that is known and short; else its fields, as any module.
        for x in jtu.tree_leaves(self):
            if isinstance(x, jax.core.Tracer) or not eqx.is_array(x) or x.size > 100:
                return None
        with jax.ensure_compile_time_eval():
            value = np.asarray(self.compute())
        number = f"{value.item():.6g}" if value.ndim == 0 else str(value.tolist())
        return wl.TextDoc(f"{type(self).__name__}({number})")


class Average(AbstractMetric):
    """A weighted mean, kept as its total and its weight; NaN over no example.

    !!! example

        The accuracy of a sequence counts its tokens:
        `Average(jnp.sum(correct), jnp.sum(is_token))`.
    """

    total: Float[Array, "..."] = eqx.field(converter=_wide)
    weight: Float[Array, "..."] = eqx.field(converter=_wide, default=1.0)

    def __check_init__(self):
        total, weight = jnp.shape(self.total), jnp.shape(self.weight)
        ones = (1,) * (len(total) - len(weight))
        fits = zip((*ones, *weight), total, strict=False)
        if len(weight) > len(total) or not all(w in (1, t) for w, t in fits):
            raise ValueError(
                "`weight` must be one number, or one for each total of an `Average`, "
                f"of the shape {total}, got an array of the shape {weight}."
            )
        # Merged and summed averages are not made anew, and what is traced has no value.
        if isinstance(self.weight, jax.Array) and not isinstance(
            self.weight, jax.core.Tracer
        ):
            if self.weight.is_fully_addressable and (np.asarray(self.weight) < 0).any():
                raise ValueError(
                    "`weight` must be at least 0 in an `Average`, got "
                    f"{shown(self.weight)}."
                )

    def compute(self) -> Array:
        weight = jnp.broadcast_to(self.weight, self.total.shape)
        nothing = weight == 0
        # Divided by 1 there, so that derivatives are finite.
        mean = self.total / jnp.where(nothing, jnp.ones_like(weight), weight)
        return jnp.where(nothing, jnp.full_like(mean, jnp.nan), mean)


class Sum(AbstractMetric):
    """A plain sum: a number of tokens, a number of clients."""

    total: Float[Array, "..."] = eqx.field(converter=_wide)

    def compute(self) -> Array:
        return self.total


RESERVED = ("loss", "round", "clients", "nonfinite", "nonfinite_model")
RESERVED += ("bits_up", "bits_up_entropy", "bits_up_arithmetic")
RESERVED += ("bits_down", "bits_down_entropy", "bits_down_arithmetic")


def as_metrics(loss: Array | None, values: dict[str, Any]) -> dict[str, AbstractMetric]:
    """The metrics of one example: its loss, and whatever else it reports."""
    metrics: dict[str, AbstractMetric] = {}
    if loss is not None:
        check_free("The loss", values, RESERVED)
        metrics["loss"] = Average(loss)
    for name, value in values.items():
        if not isinstance(name, str):
            raise TypeError(
                f"A metric's name must be text, got {shown(name)}, whose value is "
                f"{shown(value)}."
            )
        is_metric = isinstance(value, AbstractMetric)
        metrics[name] = value if is_metric else Average(_one(name, value))
    return metrics


def _one(name: str, value: Any) -> Array:
    try:
        return floating(value)
    except TypeError:
        raise TypeError(
            f"The metric {name!r} must be one real number, or an `AbstractMetric`, "
            f"got {shown(value)}."
        ) from None


def add_metrics(
    metrics: Mapping[str, AbstractMetric], new: Mapping[str, AbstractMetric]
) -> dict[str, AbstractMetric]:
    """What the loss or the client reports, and what the library adds to it.

    **Raises:**

    `ValueError` if both have a metric of the same name.
    """
    check_free("The loss", metrics, new)
    return {**metrics, **new}


def check_free(who: str, names: Iterable[str], taken: Iterable[str]) -> None:
    """Refuses a metric with the name of one that `who` does not report."""
    for name in names:
        if name in taken:
            raise ValueError(
                f"{who} reports a metric called {name!r}, which is the name of one "
                f"that a round has anyway ({', '.join(taken)}). Give it another name."
            )


def masked_sum(metrics: Any, mask: Array) -> Any:
    """Sums metrics with a leading axis of examples, leaving out those masked."""
    return jtu.tree_map(lambda x: _masked_sum(x, mask), metrics)


def _masked_sum(x: Array, mask: Array) -> Array:
    return jnp.sum(jnp.where(rowwise(mask, x), x, jnp.zeros_like(x)), axis=0)


def compute_metrics(metrics: dict[str, AbstractMetric]) -> dict[str, Any]:
    return {name: metric.compute() for name, metric in metrics.items()}
