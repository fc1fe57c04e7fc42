"""The mechanism: a mean of clipped messages, with noise."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, Int, PyTree

from .._check import check_kind, number
from .._metrics import Sum
from .._tree import floating, tree_add, tree_divide, tree_isfinite, tree_wide
from .._wire import Aggregate
from .accounting import account, check_accountable
from .clipping import AbstractClipping
from .mechanism import AbstractMechanism
from .noise import AbstractNoise, IndependentNoise, scaled_noise
from .plain import check_plain


class Covered(eqx.Module):
    """Sums over the clients of a round to which noise is added before anything else
    becomes of them."""

    payload: PyTree[Array]
    clipping: PyTree[Array]


class Clipped(eqx.Module):
    """The sums of a round."""

    covered: Covered
    count: Float[Array, ""]
    """The number of messages: it is counted for the reader, and noised by nobody."""


class _State(eqx.Module):
    clipping: PyTree
    noise: PyTree
    round: Int[Array, ""]


class PrivateMean(AbstractMechanism):
    r"""A noised mean of clipped messages, each of which counts once:

    $$\frac{1}{m} \Bigl( \sum_{i \in S} \operatorname{clip}(m_i) + z C \xi_t \Bigr),$$

    where $C$ is the clipping's bound, $\xi_t$ the round's noise, and the divisor the
    number $m$ of clients that is expected, not of those that came (DP-FedAvg, McMahan
    et al., 2018, arXiv 1710.06963). What privacy this gives depends on who takes part
    in which round as well: [`equifed.privacy.PrivacyPlan`][] says it.

    A message that is not finite counts as 0, and so does that of a client without
    examples. A round in which nobody takes part gets its noise, and the server steps.

    **Arguments:**

    - `clipping`: how a message is bounded: [`equifed.privacy.FlatClip`][], say.
    - `noise_multiplier`: the $z$: the standard deviation of a round's fresh noise over
        the bound.
    - `expected_clients`: the $m$, how many are drawn for a round on average: of a
        truncated Poisson sample before any are left out, so that a mean over those who
        stay is smaller.
    - `noise`: how the noise of the rounds hangs together; independent if not given.

    **Raises:**

    `ValueError` for noise that is correlated over rounds with a bound that changes, and
    in a round for a client that sends `stats`, which would leave without noise.
    """

    clipping: AbstractClipping
    noise_multiplier: Float[Array, ""] = eqx.field(
        converter=number("noise_multiplier", least=0), kw_only=True
    )
    expected_clients: Float[Array, ""] = eqx.field(
        converter=number("expected_clients", least=0, strict=True), kw_only=True
    )
    noise: AbstractNoise = eqx.field(default=IndependentNoise(), kw_only=True)

    def __check_init__(self):
        check_kind("clipping", self.clipping, AbstractClipping)
        check_kind("noise", self.noise, AbstractNoise)
        if not (self.noise.is_independent or self.clipping.is_fixed):
            raise ValueError(
                f"`{type(self.noise).__name__}` is correlated over rounds, for which "
                "each message must have the same bound in all of them, but that of "
                f"`{type(self.clipping).__name__}` changes. Clip with `FlatClip`."
            )
        self.clipping.share(self.noise_multiplier)

    @property
    def gathers(self):
        return False

    @property
    def most_rounds(self):
        return self.noise.most_rounds

    @property
    def reports(self):
        return ("noise_stddev", *self.clipping.reports)

    def covered(self, encoded):
        everything = jtu.tree_map(lambda _: True, encoded)
        return eqx.tree_at(lambda e: e.count, everything, replace=False)

    def check(self, participation):
        check_accountable(participation, self.noise)

    def account(self, participation, noise_multiplier, num_rounds):
        return account(participation, self.noise, noise_multiplier, num_rounds)

    def like(self, noise_multiplier, ratio):
        return noise_multiplier * ratio

    def init(self, payload):
        clipping, noise = self.clipping.init(payload), self.noise.init(payload)
        return _State(clipping, noise, jnp.zeros((), jnp.int32))

    def encode(self, message, state, *, key):
        check_plain(message, self)
        present = (message.weight > 0) & tree_isfinite(message.payload)
        # Half precision would round a message beyond its bound.
        payload = tree_wide(message.payload)
        clipped, more = self.clipping.clip(payload, state.clipping)
        covered = jtu.tree_map(
            lambda x: jnp.where(present, x, jnp.zeros_like(x)),
            Covered(clipped, more),
        )
        return Clipped(covered, present.astype(jnp.result_type(float))), {}

    def decode(self, encoded, state, *, key):
        noise_key, clip_key = jr.split(key)
        covered = encoded.covered
        bound = self.clipping.bound(state.clipping)
        multiplier = self.clipping.share(self.noise_multiplier)
        # Without noise the bound may be infinite, and their product is 0.
        none = multiplier == 0
        scale = jnp.where(none, floating(0), multiplier * jnp.where(none, 1, bound))
        drawn, noise = self.noise.draw(
            covered.payload, state.noise, round=state.round, key=noise_key
        )
        total = tree_add(covered.payload, scaled_noise(drawn, scale))
        clipping, metrics = self.clipping.update(
            state.clipping, covered.clipping, self.expected_clients, key=clip_key
        )
        aggregate = Aggregate(
            tree_divide(total, self.expected_clients),
            None,
            encoded.count,
            encoded.count,
            jnp.ones((), bool),
        )
        metrics = {**metrics, "noise_stddev": Sum(scale / self.expected_clients)}
        return aggregate, _State(clipping, noise, state.round + 1), metrics
