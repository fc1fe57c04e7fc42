"""Privacy of examples: clients whose steps clip each example's gradient and add noise.

A plan for clients hides whether a client took part. Here it is one example of a client
that is hidden, from everyone who sees what the client sends, by DP-SGD within the
client (Abadi et al., 2016, arXiv 1607.00133).
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

from .._check import as_number, check_count, check_number, checked
from .._client import AbstractClient, merge_metrics, zero_metrics
from .._client.loss import example_metrics, Metrics
from .._client.microbatched import check_whole
from .._client.reach import only, reached
from .._client.stateful import Stateful
from .._metrics import masked_sum
from .._noise import reseed_noise
from .._optim import as_optim, Optim, OptimLike
from .._tree import (
    tree_add,
    tree_cast_like,
    tree_divide,
    tree_norm,
    tree_sub,
    tree_wide,
)
from .._types import Example, Loss, Model, Params
from .._wire import CHANGE, Message
from ..data import AbstractBatching, AbstractSampler, Epochs
from ..data._sampler import Participation
from .accounting import (
    Accounted,
    check_known,
    epsilon_of,
    least_noise,
    most_rounds,
    rounded_up,
)
from .clipping import FlatClip
from .extra import dp_accounting
from .noise import normal_like, scaled_noise


class PrivateSGD(AbstractClient):
    r"""Local steps along noised sums of clipped gradients, each of one example.

    A step on the batch $B$ hands the optimiser

    $$\frac1b \Bigl( \sum_{e \in B} \nabla \ell(\theta, e) \min\bigl(1, C / \lVert
    \nabla \ell(\theta, e) \rVert\bigr) + z C \xi \Bigr), \quad \xi \sim N(0, I),$$

    where $b$ is the batch size, of a short batch too. A gradient that is not finite
    counts as 0. With $C = \infty$, $z = 0$ and full batches this is
    [`equifed.LocalSGD`][] to single precision. What its metrics say of the examples is
    not protected.

    !!! example

        ```python
        client = eqf.privacy.PrivateSGD(
            loss, optax.sgd(0.1), batching, max_norm=1.0, noise_multiplier=1.0
        )
        algorithm = eqf.FedAvg(loss, optax.sgd(0.1), batching)
        algorithm = eqx.tree_at(lambda a: a.client, algorithm, client)
        ```
    """

    loss: Loss
    optim: Optim
    batching: AbstractBatching
    max_norm: Float[Array, ""]
    noise_multiplier: Float[Array, ""]
    sends = (CHANGE,)
    follows_loss = True

    @checked()
    def __init__(
        self,
        loss: Loss,
        optim: OptimLike,
        batching: AbstractBatching,
        *,
        max_norm: ArrayLike,
        noise_multiplier: ArrayLike,
    ):
        """**Arguments:**

        - `loss`: of one example, `loss(model, example, key)`.
        - `optim`: an Optax optimiser.
        - `batching`: how the client's examples are visited.
        - `max_norm`: the $C$; `math.inf` clips nothing.
        - `noise_multiplier`: the $z$.
        """
        if isinstance(loss, Stateful):
            raise ValueError(
                "Of a `Stateful` loss, whose layers normalise over a batch, no example "
                "has a gradient of its own. Use a model with `GroupNorm` or "
                "`LayerNorm`, and a plain loss."
            )
        check_whole(loss, "PrivateSGD")
        self.loss, self.optim, self.batching = loss, as_optim(optim), batching
        self.max_norm = FlatClip(max_norm).max_norm
        self.noise_multiplier = as_number("noise_multiplier", noise_multiplier, least=0)

    def init(self, params):
        return None

    def payload(self, params):
        return params

    def gradient(
        self,
        params: Params,
        rest: Model,
        examples: Example,
        mask: Bool[Array, " batch"],
        *,
        key: PRNGKeyArray,
        noise_key: PRNGKeyArray,
    ) -> tuple[Params, Metrics]:
        """The noised mean of a batch's clipped gradients, and the metrics of its
        examples, summed."""

        def one(example: Example, key: PRNGKeyArray) -> tuple:
            def value(params: Params) -> tuple[Array, Metrics]:
                model = eqx.combine(params, rest)
                return example_metrics(self.loss, model, example, key)

            grads, metrics = jax.grad(value, has_aux=True)(params)
            grads = tree_wide(grads)
            return grads, tree_norm(grads), metrics

        keys = jr.split(key, mask.shape[0])
        grads, norms, metrics = jax.vmap(one)(examples, keys)
        # A norm is finite if all numbers are; one that overflowed would count 0 anyway.
        there = mask & jnp.isfinite(norms)
        long = there & (norms > self.max_norm)
        shrink = jnp.where(long, self.max_norm / jnp.where(long, norms, 1), 1)
        total = jtu.tree_map(lambda x: _weighed(there, shrink, x), grads)
        # Without noise the bound may be infinite, and their product is 0.
        none = self.noise_multiplier == 0
        scale = self.noise_multiplier * jnp.where(none, 0, self.max_norm)
        total = tree_add(total, scaled_noise(normal_like(total, noise_key), scale))
        size = jnp.asarray(mask.shape[0], jnp.result_type(float))
        mean = tree_cast_like(tree_divide(total, size), params)
        return mean, masked_sum(metrics, mask)

    def round(self, broadcast, data, state, *, key):
        start, rest = broadcast.params, broadcast.rest
        where = reached(self.loss, broadcast, data.example)
        step_key, own_key, noise_key = jr.split(key, 3)
        optim = reseed_noise(self.optim, noise_key)

        def step(carry, examples, mask, i):
            params, optim_state, metrics = carry
            keys = {"key": jr.fold_in(step_key, i), "noise_key": jr.fold_in(own_key, i)}
            grads, new = self.gradient(params, rest, examples, mask, **keys)
            updates, optim_state = optim.update(grads, optim_state, params)
            params = only(where, tree_add(params, updates), params)
            return params, optim_state, merge_metrics(metrics, new)

        metrics = zero_metrics(self.loss, broadcast.model, data.example)
        carry = (start, reseed_noise(optim.init(start), noise_key), metrics)
        params, _, metrics = data.fold(step, carry)
        return Message(tree_sub(params, start), data.weight), state, metrics


def _weighed(
    there: Bool[Array, " batch"], scale: Float[Array, " batch"], x: Array
) -> Array:
    """The scaled sum of those that are there: a product, which is faster than a sum of
    products that were computed before."""
    rows = jnp.where(there[:, None], x.reshape(x.shape[0], -1), 0)
    total = jnp.matmul(scale.astype(x.dtype), rows, precision="highest")
    return total.reshape(x.shape[1:])


class ExampleLevelPlan(eqx.Module):
    r"""How private one example of a client is that trains with
    [`equifed.privacy.PrivateSGD`][].

    $(\varepsilon, \delta)$ bounds what everything that the client sends in the training
    tells of one of its examples, against its gradients being 0: the number of examples
    counts as known. An example is in one batch of an epoch, so that $E$ epochs in each
    of at most $T$ rounds are a Gaussian mechanism of noise multiplier $z / \sqrt{E
    T}$. Nothing is gained by the order of the examples being random: batches of an
    epoch are not Poisson samples, and are not accounted for as if they were.

    Needs the extra `privacy`.
    """

    sampler: AbstractSampler
    client: PrivateSGD
    num_clients: int
    num_rounds: int
    delta: float

    @checked()
    def __init__(
        self,
        sampler: AbstractSampler,
        client: PrivateSGD,
        *,
        num_clients: int,
        num_rounds: int,
        delta: float,
    ):
        """**Arguments:**

        - `sampler`: the loader's: how often a client takes part at most.
        - `client`: the algorithm's.
        - `num_clients`: the size of the population.
        - `num_rounds`: how many rounds there are at most.
        - `delta`: of epsilon and delta, more than 0 and less than 1.

        **Raises:**

        `ValueError` for a batching that may visit an example twice in an epoch.
        """
        check_number("delta", delta, least=0, strict=True, below=1)
        batching = client.batching
        if not isinstance(batching, Epochs) or batching.last == "fill":
            raise ValueError(
                "How often an example is visited is known of passes over all of them, "
                "but batches that are filled up may have one twice. Visit them with "
                "`Epochs(1, batch_size=20)`."
            )
        self.sampler, self.client = sampler, client
        self.num_clients = check_count("num_clients", num_clients)
        self.num_rounds = check_count("num_rounds", num_rounds)
        self.delta = float(delta)

    @property
    def participation(self) -> Participation:
        """How the clients come to take part."""
        there = self.sampler.participation(self.num_clients)
        return check_known(self.sampler, there)

    def epsilon(self, num_rounds: int | None = None) -> float:
        """The epsilon of an example after `num_rounds` rounds, of the plan's if not
        given; infinite where there is no noise."""
        rounds = self.num_rounds
        if num_rounds is not None:
            rounds = check_count("num_rounds", num_rounds, least=0, most=rounds)
        if rounds == 0:
            return 0.0
        noise = float(self.client.noise_multiplier)
        return epsilon_of(self._account(noise, rounds), self.delta)

    def for_epsilon(self, epsilon: float) -> "ExampleLevelPlan":
        """The plan with the least noise for which all its rounds have at most that
        epsilon."""
        check_number("epsilon", epsilon, least=0, strict=True)
        found = least_noise(
            lambda z: self._account(z, self.num_rounds), epsilon, self.delta
        )
        up = jnp.asarray(rounded_up(found), self.client.noise_multiplier.dtype)
        client = eqx.tree_at(lambda c: c.noise_multiplier, self.client, up)
        return dataclasses.replace(self, client=client)

    def _account(self, noise_multiplier: float, rounds: int) -> Accounted:
        dp = dp_accounting()
        event = dp.NonPrivateDpEvent()
        if noise_multiplier > 0:
            batching = self.client.batching
            assert isinstance(batching, Epochs)
            times = batching.num_epochs * most_rounds(self.participation, rounds)
            event = dp.GaussianDpEvent(noise_multiplier / math.sqrt(times))
        return Accounted(event, "zero out one", "PLD")
