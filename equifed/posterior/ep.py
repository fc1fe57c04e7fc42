r"""Expectation propagation with diagonal Gaussians.

A Gaussian is kept by its natural parameters: its precision $\Lambda$ and $\eta =
\Lambda \mu$, element by element. In these a product of Gaussians is a sum, and a
quotient a difference.
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Float

from .._check import as_number, check_kind, checked, number
from .._client import AbstractClient, AbstractMemoryless, LocalSGD
from .._optim import as_optim, Optim, OptimLike
from .._server import AbstractServer
from .._tree import (
    tree_add,
    tree_cast_like,
    tree_scale,
    tree_sub,
    tree_where,
    tree_wide,
    tree_zeros_like,
)
from .._types import Loss, Params
from .._wire import AbstractPayload, Broadcast, Message
from ..data import AbstractBatching
from .laplace import Curvature, diagonal_curvature
from .objective import ClientObjective


FACTOR = "a change of a factor (`EPClient`, `EPServer`)"


class Natural(AbstractPayload):
    """The natural parameters of a diagonal Gaussian over the params."""

    additive: ClassVar[bool] = True  # a sum is a product of Gaussians
    precision: Params
    linear: Params
    """The precision times the mean."""


class _Pull(AbstractMemoryless):
    r"""Adds the gradient of $\frac1{2 n} (\theta - \mu)^\top \Lambda (\theta - \mu)$:
    $(\Lambda \theta - \eta) / n$."""

    cavity: Natural
    share: Float[Array, ""]

    def begin(self, params, shared, state, gradient):
        return None

    def correct(self, grads, params, carry, gradient):
        def add(g, theta, precision, linear):
            pull = precision * theta.astype(precision.dtype) - linear
            return g + (self.share.astype(pull.dtype) * pull).astype(g.dtype)

        cavity = self.cavity
        return jtu.tree_map(add, grads, params, cavity.precision, cavity.linear), carry


class EPClient(AbstractClient):
    r"""FedEP's client: it refines its own factor of the global posterior.

    The server broadcasts the product $q$ of a prior and one factor $q_i$ for each
    client. Client $i$ takes its own factor out, $q_{-i} = q / q_i$ (the cavity), and
    fits a Gaussian to the product of the cavity and its likelihood $\exp(-n_i f_i)$:
    local SGD on $f_i - \frac1{n_i} \log q_{-i}$ finds the mean, and the curvature of
    $f_i$ there the precision. That Gaussian over the cavity is its new factor. It sends
    the change of the natural parameters, times `damping`, and remembers its factor.

    **Arguments:**

    - `loss`, `batching`: as in [`equifed.LocalSGD`][].
    - `optim`: the client's Optax optimiser. The cavity grows as clients' factors come
        in, and steps must stay stable under the curvature of all clients together over
        $n_i$.
    - `damping`: more than 0, at most 1.
    - `curvature`: `"fisher"` or `"hessian"`, as in [`equifed.posterior.Laplace`][].
    """

    sends = (FACTOR,)
    follows_loss = True
    loss: Loss
    optim: Optim
    batching: AbstractBatching
    damping: Float[Array, ""]
    curvature: Curvature

    @checked()
    def __init__(
        self,
        loss: Loss,
        optim: OptimLike,
        batching: AbstractBatching,
        *,
        damping: ArrayLike = 1.0,
        curvature: Curvature = "fisher",
    ):
        self.loss = loss
        self.optim = as_optim(optim)
        self.batching = batching
        self.damping = as_number("damping", damping, least=0, strict=True, most=1)
        self.curvature = curvature

    def init(self, params):
        zeros = tree_zeros_like(tree_wide(params))
        return Natural(zeros, zeros)

    def payload(self, params):
        return Natural(tree_wide(params), tree_wide(params))

    def round(self, broadcast, data, state, *, key):
        remedy = "`EPClient` goes with `EPServer`."
        check_kind("broadcast.shared", broadcast.shared, Natural, remedy)
        params, rest = broadcast.params, broadcast.rest
        step_key, pass_key, probe_key = jr.split(key, 3)
        count = data.num_examples.astype(jnp.result_type(float))
        cavity = tree_sub(broadcast.shared, state)

        pull = _Pull(cavity, 1 / jnp.maximum(count, 1))
        client = LocalSGD(self.loss, self.optim, self.batching, pull)
        start = Broadcast(params, rest)
        message, _, metrics = client.round(start, data, None, key=step_key)
        mean = tree_add(params, message.payload)

        size = self.batching.batch_size
        objective = ClientObjective(self.loss, rest, data, size, pass_key)
        curvature = diagonal_curvature(self.curvature, objective, mean, key=probe_key)
        precision = tree_scale(count, curvature)
        linear = jtu.tree_map(
            lambda own, rest, m, other: (own + rest) * m.astype(own.dtype) - other,
            precision,
            cavity.precision,
            mean,
            cavity.linear,
        )
        change = tree_sub(Natural(precision, linear), state)
        change = tree_scale(self.damping, change)
        # One that weighs nothing changes nothing: the server does not hear of it.
        change = tree_where(message.weight > 0, change, tree_zeros_like(change))
        return Message(change, message.weight), tree_add(state, change), metrics


class EPServer(AbstractServer):
    r"""Keeps the natural parameters $\Lambda, \eta$ of the global posterior, adds up
    the clients' changes to them, and has the mean $\eta / \Lambda$ for its model.

    **Arguments:**

    - `prior_precision`: more than 0. The prior is a Gaussian of that precision around
        the model that training begins with.
    """

    understands = (FACTOR,)
    prior_precision: Float[Array, ""] = eqx.field(
        converter=number("prior_precision", least=0, strict=True)
    )

    def init(self, params, *, num_clients):
        wide = tree_wide(params)
        precision = jtu.tree_map(
            lambda x: jnp.full_like(x, self.prior_precision.astype(x.dtype)), wide
        )
        return Natural(precision, jtu.tree_map(jnp.multiply, precision, wide))

    def broadcast(self, params, state):
        return state

    def round(self, params, aggregate, state, *, key):
        check_kind("payload", aggregate.payload, Natural, "It goes with `EPClient`.")
        # Factors multiply, so their changes add up: the mean times their number.
        change = tree_scale(aggregate.count, aggregate.payload)
        state = tree_add(state, change)
        mean = jtu.tree_map(jnp.divide, state.linear, state.precision)
        return tree_cast_like(mean, params), state
