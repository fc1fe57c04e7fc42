"""FedPA's client: a sampler of its posterior, and an estimator of its moments."""

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu

from .._client import AbstractClient, Message
from .._metrics import Average
from .._tree import tree_cast_like, tree_isfinite, tree_norm, tree_sub, tree_where
from .._types import Loss
from ..data import AbstractBatching
from .base import AbstractPosteriorSampler
from .moments import AbstractMomentEstimator, Gaussian


class PosteriorClient(AbstractClient):
    r"""Draws samples of its posterior, and sends what the estimator makes of them.

    Where the server broadcasts that the burn-in rounds are not over yet
    ([`equifed.BurnInServer`][]), it sends what FedAvg would instead.

    A message that is not finite, as that of a client whose posterior is singular, has
    weight 0 whatever the aggregator, and is counted in the round's `nonfinite`. The
    round's metrics gain `correction_norm`: how far, in the mean over the clients, the
    message is from the plain mean of the samples; 0 in burn-in rounds.

    **Arguments:**

    - `loss`: the loss of one example.
    - `sampler`: how samples are drawn.
    - `batching`: how a client goes through its examples.
    - `estimator`: what is sent, as a function of the samples.

    **Raises:**

    `ValueError` if the sampler cannot work with the batching.
    """

    loss: Loss
    sampler: AbstractPosteriorSampler
    batching: AbstractBatching
    estimator: AbstractMomentEstimator

    def __init__(
        self,
        loss: Loss,
        sampler: AbstractPosteriorSampler,
        batching: AbstractBatching,
        estimator: AbstractMomentEstimator,
    ):
        self.loss = loss
        self.sampler = sampler
        self.batching = batching
        self.estimator = estimator

    def __check_init__(self):
        self.sampler.count(self.batching)

    def init(self, params):
        return None

    def round(self, broadcast, data, state, *, key):
        params = eqx.filter(broadcast.model, eqx.is_inexact_array)
        samples, metrics = self.sampler.sample(
            self.loss, broadcast.model, data, self.batching, key=key
        )
        payload = self.estimator(samples.values)
        if not isinstance(payload, Gaussian):
            payload = tree_cast_like(payload, params)
        mean = jtu.tree_map(lambda x: x.mean(0), samples.values)
        estimate = payload.mean if isinstance(payload, Gaussian) else payload
        correction = tree_norm(tree_sub(mean, estimate))
        counts = data.num_steps > 0
        if broadcast.shared is not None:
            if isinstance(payload, Gaussian):
                raise TypeError(
                    "In burn-in rounds a client sends a change of the params, and "
                    f"`{type(self.estimator).__name__}` makes a Gaussian. Use it with "
                    "`PosteriorProduct` and a plain `OptaxServer`."
                )
            payload = tree_where(broadcast.shared, payload, samples.last)
            counts = counts & broadcast.shared
        norm = jnp.where(counts, correction, jnp.zeros_like(correction))
        metrics["correction_norm"] = Average(norm, counts.astype(norm.dtype))
        finite = tree_isfinite(payload)
        weight = jnp.where(finite, data.weight, jnp.zeros_like(data.weight))
        return Message(payload, weight), state, metrics
