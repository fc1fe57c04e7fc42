"""The distributed discrete Gaussian mechanism: private through a secure sum alone.

Each client adds a share of the noise to integers that it sends through a sum modulo
$2^b$. The server sees that sum only, in which the shares have added up to noise enough;
nobody has to be trusted with a message, nor with drawing all of the noise.
"""

import math

import equinox as eqx
import jax.core
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree

from .._bits import Bits, UP
from .._check import as_number, check_count, check_number, check_seed, checked
from .._metrics import Sum
from .._tree import tree_wide, tree_zeros_like
from .._wire import Aggregate
from ..compress import rotate, rotate_back
from ..data import PoissonParticipation
from .accounting import Accounted, most_rounds
from .clipping import scaled_to
from .discrete_gaussian import discrete_gaussian
from .extra import dp_accounting
from .mechanism import AbstractMechanism
from .modular import modular_bits, ModularSum
from .plain import plain_payload
from .rounding import conditional_round, rounded_bound


# So many standard deviations of the sum's noise must be within the range.
_WITHIN = 4


class Sent(eqx.Module):
    """The sums of a round."""

    total: ModularSum
    count: Int[Array, ""]
    """The number of messages that were there: for whoever simulates."""


class _State(eqx.Module):
    like: PyTree[Array]
    """The form of the payload, by which a vector becomes one again."""
    round: Int[Array, ""]


class DistributedDiscreteGaussian(AbstractMechanism):
    r"""A mean of messages that each client clips, rotates, rounds to integers and adds
    discrete Gaussian noise to, summed modulo $2^b$.

    With $\gamma$ the step, $C$ the bound, $d$ the size of a message filled up to a
    power of two, and $R$ a random rotation that a round's clients share, a client

    1. clips and rotates: $y = R \operatorname{clip}(m) / \gamma$;
    2. rounds $y$ at random to integers $\tilde y$, until $\lVert \tilde y \rVert_2 \le
       \Delta_2 / \gamma$;
    3. sends $\tilde y + N_{\mathbb Z}(0, \sigma^2 / \gamma^2)$ modulo $2^b$,

    where

    $$\Delta_2^2 = \min \Bigl\{ C^2 + \tfrac14 \gamma^2 d + \sqrt{2 \log \tfrac1\beta}\,
    \gamma \bigl(C + \tfrac12 \gamma \sqrt d\bigr),\; (C + \gamma \sqrt d)^2 \Bigr\}.$$

    The server rotates the sum back and divides by the number $n$ of clients. Here
    $\sigma = z C / \sqrt n$, so that the noise of the sum has a standard deviation of
    $z C$, as that of [`equifed.privacy.PrivateMean`][]. A sum of $n$ discrete Gaussians
    is nearly one; with $\tau = 10 \sum_{k=1}^{n-1} \exp(-2 \pi^2 \frac{k}{k + 1}
    \sigma^2 / \gamma^2)$ a round is $\frac12 \varepsilon^2$-concentrated differentially
    private for

    $$\varepsilon^2 = \frac{\Delta_2^2}{n \sigma^2} + \frac{2 \tau \Delta_1}{\sqrt n
    \sigma} + \tau^2 d, \quad \Delta_1 = \Delta_2 \min \bigl\{ \sqrt d, \Delta_2 /
    \gamma \bigr\}$$

    (proposition 14; integers have no larger sum of absolute values than of squares).

    The noise is that of $n$ clients, so all must come: a plan takes samplers of a fixed
    cohort alone, and gains nothing by the drawing. A client without examples, or whose
    message is not finite, sends its noise all the same. One whose message is not within
    the bound after 64 tries sends 0 and its noise (`unrounded` counts them).

    `wrapped`, the numbers of the sum that left the range and are wrong, is for whoever
    simulates, as no server could know it.

    **Raises:**

    `ValueError` for noise that is too large for the range: four times $z / \gamma$ (in
    units of $C$) may be $2^{b - 1}$ at most.

    ??? cite "Reference"

        [The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
        Aggregation](https://arxiv.org/abs/2102.06387)

        ```bibtex
        @inproceedings{kairouz2021distributed,
            title={The {D}istributed {D}iscrete {G}aussian {M}echanism for {F}ederated
                   {L}earning with {S}ecure {A}ggregation},
            author={Kairouz, Peter and Liu, Ziyu and Steinke, Thomas},
            booktitle={ICML},
            year={2021},
        }
        ```
    """

    max_norm: Float[Array, ""]
    noise_multiplier: Float[Array, ""]
    expected_clients: Float[Array, ""]
    step: float
    num_params: int
    num_bits: int
    beta: float
    seed: int

    @checked()
    def __init__(
        self,
        max_norm: ArrayLike,
        *,
        noise_multiplier: ArrayLike,
        expected_clients: ArrayLike,
        step: float,
        num_params: int,
        num_bits: int = 32,
        beta: float = math.exp(-0.5),
        seed: int = 0,
    ):
        r"""**Arguments:**

        - `max_norm`: the $C$.
        - `noise_multiplier`: the $z$.
        - `expected_clients`: the $n$, the size of every round's cohort.
        - `step`: $\gamma / C$, from $2^{-24}$ to 1: the smaller, the finer, and the
            more bits are needed.
        - `num_params`: how many numbers a message has; privacy depends on it.
        - `num_bits`: the $b$, from 2 to 32.
        - `beta`: the $\beta$, from 0 to below 1: of the smaller bound, how likely a
            rounding may be to miss it.
        - `seed`: of the rotations, which are public.
        """
        # Of smaller ones single precision does not have all multiples up to 1.
        check_number("step", step, least=2.0**-24, most=1)
        check_number("beta", beta, least=0, below=1)
        self.max_norm = as_number("max_norm", max_norm, least=0, strict=True)
        self.noise_multiplier = as_number("noise_multiplier", noise_multiplier, least=0)
        self.expected_clients = as_number(
            "expected_clients", expected_clients, least=0, strict=True
        )
        self.step, self.beta = float(step), float(beta)
        self.num_params = check_count("num_params", num_params)
        self.num_bits = check_count("num_bits", num_bits, least=2, most=32)
        self.seed = check_seed(seed)
        self._check_range()

    def _check_range(self) -> None:
        """Refuses noise for which the range is too small: a sum would wrap anywhere,
        and numbers beyond 32 bits are not drawn right."""
        if isinstance(self.noise_multiplier, jax.core.Tracer):
            return
        noise, half = float(self.noise_multiplier), 2.0 ** (self.num_bits - 1)
        if _WITHIN * noise / self.step > half:
            raise ValueError(
                f"The noise of a sum has a standard deviation of `noise_multiplier / "
                f"step` = {noise / self.step:g} steps, of which {_WITHIN} must be "
                f"within the {half:g} that `num_bits={self.num_bits}` have on either "
                f"side of 0. Give a `step` of at least {_WITHIN * noise / half:g}"
                f"{', or more bits' * (self.num_bits < 32)}."
            )

    @property
    def gathers(self):
        return False

    @property
    def most_rounds(self):
        return None

    @property
    def needs_all(self):
        return True

    @property
    def reports(self):
        return ("noise_stddev",)

    @property
    def padded(self) -> int:
        """The $d$."""
        return 1 << (self.num_params - 1).bit_length()

    @property
    def most(self) -> float:
        r"""The bound on the norm of a rounded message, $\Delta_2 / C$."""
        return rounded_bound(self.step, self.padded, self.beta)

    def covered(self, encoded):
        nothing = jtu.tree_map(lambda _: False, encoded)
        noised = jtu.tree_map(lambda _: True, encoded.total.residue)
        return eqx.tree_at(lambda e: e.total.residue, nothing, replace=noised)

    def check(self, participation):
        self._check_range()
        if isinstance(participation, PoissonParticipation):
            raise ValueError(
                "With `DistributedDiscreteGaussian` each client adds its share of the "
                "noise, and a Poisson sample of fewer clients than expected would have "
                "too little. Sample with `UniformSampler`, `ShuffledSampler` or "
                "`AllClients`."
            )

    def like(self, noise_multiplier, ratio):
        return noise_multiplier * ratio

    def account(self, participation, noise_multiplier, num_rounds):
        dp, times = dp_accounting(), most_rounds(participation, num_rounds)
        event = dp.NonPrivateDpEvent()
        if noise_multiplier > 0:
            epsilon = concentrated_epsilon(
                self.most,
                noise_multiplier,
                num_clients=round(participation.expected),
                step=self.step,
                size=self.padded,
            )
            event = dp.SelfComposedDpEvent(dp.ZCDpEvent(epsilon**2 / 2), times)
        return Accounted(event, "zero out one", "RDP")

    def init(self, payload):
        size = sum(x.size for x in jtu.tree_leaves(payload))
        if size != self.num_params:
            raise ValueError(
                f"`num_params` is {self.num_params}, but a message has {size} numbers. "
                f"Give `num_params={size}`: privacy depends on it."
            )
        return _State(tree_zeros_like(payload), jnp.zeros((), jnp.int32))

    def encode(self, message, state, *, key):
        round_key, noise_key = jr.split(key)
        payload, present = plain_payload(message, self)
        flat = ravel_pytree(scaled_to(tree_wide(payload), self.max_norm))[0]
        unit = self.max_norm * self.step
        rotated = rotate(flat / unit.astype(flat.dtype), self._rotation(state.round))
        whole, missed = conditional_round(rotated, self.most / self.step, key=round_key)
        scale = self.noise_multiplier / (jnp.sqrt(self.expected_clients) * self.step)
        whole = whole + discrete_gaussian(noise_key, whole.shape, scale)
        sent = Bits(modular_bits(whole, self.num_bits))
        metrics = {UP: sent, "unrounded": Sum(missed)}
        return Sent(ModularSum.of(whole), present.astype(jnp.int32)), metrics

    def decode(self, encoded, state, *, key):
        whole, wrapped = encoded.total.decode(self.num_bits)
        like = tree_wide(state.like)
        flat, back = ravel_pytree(like)
        unit = self.max_norm * self.step / self.expected_clients
        total = whole.astype(flat.dtype) * unit.astype(flat.dtype)
        own = self._rotation(state.round)
        payload = back(rotate_back(total, own, size=self.num_params))
        count = encoded.count.astype(jnp.result_type(float))
        accept = jnp.ones((), bool)
        stddev = self.noise_multiplier * self.max_norm / self.expected_clients
        metrics = {"wrapped": Sum(wrapped), "noise_stddev": Sum(stddev)}
        state = _State(state.like, state.round + 1)
        return Aggregate(payload, None, count, count, accept), state, metrics

    def _rotation(self, round: Int[Array, ""]) -> PRNGKeyArray:
        own = jr.fold_in(jr.key(np.uint32(self.seed % 2**32)), self.seed >> 32)
        return jr.fold_in(own, round)


def concentrated_epsilon(
    sensitivity: float,
    noise_multiplier: float,
    *,
    num_clients: int,
    step: float,
    size: int,
) -> float:
    """The epsilon of one round, in units of the clipping's bound (proposition 14; of
    its bounds the one that is the least for tau below 1)."""
    own = noise_multiplier**2 / num_clients / step**2  # a client's variance
    tau = 10 * sum(
        math.exp(-2 * math.pi**2 * own * k / (k + 1)) for k in range(1, num_clients)
    )
    in_euclid = sensitivity / noise_multiplier
    in_sum = in_euclid * min(math.sqrt(size), sensitivity / step)
    return math.sqrt(in_euclid**2 + 2 * tau * in_sum + tau**2 * size)
