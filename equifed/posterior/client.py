"""FedPA's client: a sampler of its posterior, and an estimator of its moments."""

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PyTree

from .._check import check_kind, checked
from .._client import AbstractClient
from .._client.loss import Metrics
from .._client.reach import only, reached
from .._metrics import add_metrics, Average
from .._tree import (
    tree_cast_like,
    tree_isfinite,
    tree_norm,
    tree_sub,
    tree_where,
    tree_zeros_like,
)
from .._types import Loss, Params
from .._wire import CHANGE, Message
from ..data import AbstractBatching
from .base import AbstractPosteriorSampler
from .burn_in import BurnIn, POSTERIOR
from .moments import AbstractMomentEstimator, Gaussian


class PosteriorClient(AbstractClient):
    r"""Draws samples of its posterior, and sends what the estimator makes of them.

    Where the server broadcasts that the burn-in rounds are not over yet
    ([`equifed.posterior.BurnInServer`][]), it sends what FedAvg would instead.

    A message that is not finite, as that of a client whose posterior is singular, has
    weight 0 whatever the aggregator, and is counted in the round's `nonfinite`. The
    round's metrics gain two means over the clients: `message_norm`, the length of the
    message, and `correction_norm`, how far it is from the plain mean of the samples
    (NaN in burn-in rounds, which draw none).

    **Arguments:**

    - `loss`: the loss of one example.
    - `sampler`: how samples are drawn.
    - `batching`: how a client goes through its examples.
    - `estimator`: what is sent, as a function of the samples.

    **Raises:**

    `ValueError` if the sampler cannot work with the batching.
    """

    sends = (CHANGE, POSTERIOR)
    follows_loss = True
    loss: Loss
    sampler: AbstractPosteriorSampler
    batching: AbstractBatching
    estimator: AbstractMomentEstimator

    @checked()
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

    def payload(self, params):
        one = jtu.tree_map(lambda x: jnp.zeros((1, *x.shape), x.dtype), params)
        payload = jax.eval_shape(self.estimator, one)
        return payload if isinstance(payload, Gaussian) else params

    def round(self, broadcast, data, state, *, key):
        params = broadcast.params
        samples, metrics = self.sampler.sample(
            self.loss, broadcast, data, self.batching, key=key
        )
        where = reached(self.loss, broadcast, data.example)
        # What the loss does not reach stays where it is, however it was sampled.
        drawn = only(where, samples.values, tree_zeros_like(samples.values))
        last = only(where, samples.last, tree_zeros_like(samples.last))
        # Zeros stand in for samples that are not finite, and NaN for what is made of
        # them, so that the derivatives of the round are those of the other clients.
        usable = tree_isfinite(drawn)
        values = tree_where(usable, drawn, tree_zeros_like(drawn))
        payload = self.estimator(values)
        nans = jtu.tree_map(lambda x: jnp.full_like(x, jnp.nan), payload)
        payload = tree_where(usable, payload, nans)
        if not isinstance(payload, Gaussian):
            payload = tree_cast_like(payload, params)
        mean = jtu.tree_map(lambda x: x.mean(0), values)
        correction = tree_norm(tree_sub(mean, _change(payload)))
        length = tree_norm(_change(payload))
        there = counts = data.num_steps > 0
        if broadcast.shared is not None:
            remedy = "A `PosteriorClient` goes with `OptaxServer` or `BurnInServer`."
            check_kind("broadcast.shared", broadcast.shared, BurnIn, remedy)
            over = broadcast.shared.over
            if isinstance(payload, Gaussian):
                raise TypeError(
                    "In burn-in rounds a client sends a change of the params, and "
                    f"`{type(self.estimator).__name__}` makes a Gaussian. Use it with "
                    "`PosteriorProduct` and a plain `OptaxServer`."
                )
            payload = tree_where(over, payload, last)
            length = jnp.where(over, length, tree_norm(last))
            counts = there & over
        norms: Metrics = {
            "correction_norm": _average(correction, counts),
            "message_norm": _average(length, there),
        }
        metrics = add_metrics(metrics, norms)
        finite = tree_isfinite(payload)
        weight = jnp.where(finite, data.weight, jnp.zeros_like(data.weight))
        return Message(payload, weight), state, metrics


def _change(payload: PyTree) -> Params:
    return payload.mean if isinstance(payload, Gaussian) else payload


def _average(x: Float[Array, ""], counts: Bool[Array, ""]) -> Average:
    """What is summed to the mean over those clients that count."""
    return Average(jnp.where(counts, x, jnp.zeros_like(x)), counts.astype(x.dtype))
