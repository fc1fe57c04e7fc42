"""Local privacy: every client's message is noised before it leaves.

Nobody has to be trusted with a message, the server included. What a client's own
messages tell of it does not depend on the others, so that none gains by a large cohort
or by the drawing: each pays for the rounds in which it takes part.
"""

import math

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from .._aggregator import AbstractAggregator
from .._check import number
from .._tree import tree_add, tree_divide, tree_scale, tree_wide
from .._wire import Aggregate, Message
from .accounting import Accounted, most_rounds
from .clipping import scaled_to
from .extra import dp_accounting
from .mechanism import AbstractMechanism
from .noise import normal_like, scaled_noise
from .plain import plain_payload


class Noised(eqx.Module):
    """The sums of a round."""

    payload: PyTree[Array]
    """Of messages that were noised one by one."""
    count: Float[Array, ""]
    """The number of messages that were there: for whoever simulates."""


class AbstractLocal(AbstractMechanism):
    """A mean of messages, each of which has noise of its own."""

    max_norm: eqx.AbstractVar[Float[Array, ""]]

    @property
    def gathers(self):
        return False

    @property
    def most_rounds(self):
        return None

    @property
    def reports(self):
        return ()

    def init(self, payload):
        return None

    def covered(self, encoded):
        everything = jtu.tree_map(lambda _: True, encoded)
        return eqx.tree_at(lambda e: e.count, everything, replace=False)

    def check(self, participation):
        pass  # what a client's messages tell of it, no sampling changes

    def like(self, noise_multiplier, ratio):
        # The noise of a mean falls with the root of the number of those who add it.
        return noise_multiplier * math.sqrt(ratio)

    def decode(self, encoded, state, *, key):
        mean = tree_divide(encoded.payload, self.expected_clients)
        count = encoded.count
        accept = jnp.ones((), bool)
        return Aggregate(mean, None, count, count, accept), state, {}


class LocalGaussian(AbstractLocal):
    r"""A mean of messages, each clipped in Euclidean norm and with normal noise of its
    own:

    $$\frac{1}{m} \sum_{i \in S} \bigl(\operatorname{clip}(m_i) + z C \xi_i\bigr),
    \quad \xi_i \sim N(0, I).$$

    Two messages of norm $C$ at most are $2 C$ apart, so that a client that takes part
    in $T$ rounds is as private as a Gaussian mechanism of noise multiplier $z / (2
    \sqrt T)$ (Duchi et al., 2013, arXiv 1302.3203, on local privacy). A message that is
    not finite counts as 0, and so does that of a client without examples: their noise
    is added all the same, or it would tell.

    **Arguments:**

    - `max_norm`: the $C$.
    - `noise_multiplier`: the $z$.
    - `expected_clients`: the $m$, the number of clients that are drawn on average.
    """

    max_norm: Float[Array, ""] = eqx.field(
        converter=number("max_norm", least=0, strict=True)
    )
    noise_multiplier: Float[Array, ""] = eqx.field(
        converter=number("noise_multiplier", least=0), kw_only=True
    )
    expected_clients: Float[Array, ""] = eqx.field(
        converter=number("expected_clients", least=0, strict=True), kw_only=True
    )

    def account(self, participation, noise_multiplier, num_rounds):
        dp, times = dp_accounting(), most_rounds(participation, num_rounds)
        event = dp.NonPrivateDpEvent()
        if noise_multiplier > 0:
            event = dp.GaussianDpEvent(noise_multiplier / 2 / math.sqrt(times))
        return Accounted(event, "replace a message", "PLD")

    def encode(self, message, state, *, key):
        payload, present = _present(message, self)
        clipped = scaled_to(payload, self.max_norm)
        noise = normal_like(clipped, key)
        scale = self.noise_multiplier * self.max_norm
        return Noised(tree_add(clipped, scaled_noise(noise, scale)), present), {}


class LocalLaplace(AbstractLocal):
    r"""A mean of messages, each clipped in the sum of absolute values and with Laplace
    noise of its own:

    $$\frac{1}{m} \sum_{i \in S} \bigl(m_i \min(1, C / \lVert m_i \rVert_1) + z C
    \xi_i\bigr), \quad \xi_{ij} \sim \operatorname{Laplace}(0, 1).$$

    Two messages are $2 C$ apart at most, so that each gives pure $2 / z$-differential
    privacy (Dwork et al., 2006); over several rounds a $\delta$ makes the sum of them
    smaller. The noise of each number has the standard deviation $\sqrt 2 z C$, and the
    norm of $d$ numbers that are alike grows with $d$: for few numbers.

    **Arguments:**

    - `max_norm`: the $C$, of the sum of absolute values.
    - `noise_multiplier`: the $z$: the scale of the noise over $C$.
    - `expected_clients`: the $m$, the number of clients that are drawn on average.
    """

    max_norm: Float[Array, ""] = eqx.field(
        converter=number("max_norm", least=0, strict=True)
    )
    noise_multiplier: Float[Array, ""] = eqx.field(
        converter=number("noise_multiplier", least=0), kw_only=True
    )
    expected_clients: Float[Array, ""] = eqx.field(
        converter=number("expected_clients", least=0, strict=True), kw_only=True
    )

    def account(self, participation, noise_multiplier, num_rounds):
        dp, times = dp_accounting(), most_rounds(participation, num_rounds)
        event = dp.NonPrivateDpEvent()
        if noise_multiplier > 0:
            laplace = dp.LaplaceDpEvent(noise_multiplier / 2)
            event = dp.SelfComposedDpEvent(laplace, times)
        # Of little noise a delta gains next to nothing, and that takes minutes.
        pure = 0 < noise_multiplier < 0.01
        return Accounted(event, "replace a message", "pure" if pure else "PLD")

    def encode(self, message, state, *, key):
        payload, present = _present(message, self)
        leaves, structure = jtu.tree_flatten(payload)
        norm = sum(jnp.abs(x).sum().astype(self.max_norm.dtype) for x in leaves)
        long = norm > self.max_norm
        shrink = jnp.where(long, self.max_norm / jnp.where(long, norm, 1), 1)
        clipped = tree_scale(shrink.astype(self.max_norm.dtype), payload)
        keys = jr.split(key, max(len(leaves), 1))
        drawn = [
            jr.laplace(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=False)
        ]
        scale = self.noise_multiplier * self.max_norm
        noise = scaled_noise(jtu.tree_unflatten(structure, drawn), scale)
        return Noised(tree_add(clipped, noise), present), {}


def _present(
    message: Message, mechanism: AbstractAggregator
) -> tuple[PyTree, Float[Array, ""]]:
    """The payload, in which noise can be added up; and whether it counts."""
    payload, present = plain_payload(message, mechanism)
    return tree_wide(payload), present.astype(jnp.result_type(float))
