"""A metric for each domain: for each kind of client, or of example."""

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Integer

from .._check import check_count, check_kind
from .._metrics import AbstractMetric
from .labels import as_int32


class PerDomain(AbstractMetric):
    """Any metric, for each domain apart: what is computed has one more axis, the first.

    A domain that is not there (2 of two domains, which begin at 0; or -1) is none that
    can be left out: all domains are NaN then, as for a label that has no logit. A
    domain of which there is no example has a mean of NaN.

    !!! example

        ```python
        right = eqf.accuracy(logits, example["label"])
        {"accuracy": eqf.PerDomain(right, example["domain_id"], num_domains=2)}
        ```
    """

    metric: AbstractMetric
    """The metrics of all domains, along a first axis."""

    def __init__(
        self,
        metric: AbstractMetric,
        domain: Integer[ArrayLike, ""],
        *,
        num_domains: int,
    ):
        """**Arguments:**

        - `metric`: that of one example.
        - `domain`: the number of its domain.
        - `num_domains`: how many domains there are.

        **Raises:**

        `TypeError` if `metric` is none, or `domain` is no integer.
        """
        check_kind("metric", metric, AbstractMetric, "Of a number write `Average(x)`.")
        check_count("num_domains", num_domains)
        domain = as_int32("`domain` must be an integer", domain)
        if domain.ndim:
            raise ValueError(
                "`PerDomain` is of ONE example, and so of one `domain`, got one of "
                f"shape {domain.shape}. For many at once write `jax.vmap`."
            )
        own = jnp.arange(num_domains, dtype=jnp.int32) == domain
        valid = (domain >= 0) & (domain < num_domains)

        def spread(x: Array) -> Array:
            if not jnp.issubdtype(x.dtype, jnp.inexact):
                x = x.astype(jnp.result_type(float))  # an integer is never NaN
            mine = own.reshape(own.shape + (1,) * x.ndim)
            apart = jnp.where(mine, x[None], jnp.zeros_like(x)[None])
            return jnp.where(valid, apart, jnp.full_like(apart, jnp.nan))

        self.metric = jtu.tree_map(spread, metric)

    def compute(self) -> Array:
        return jax.vmap(lambda metric: metric.compute())(self.metric)
