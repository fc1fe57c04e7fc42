"""Scaffnew: local steps until a coin says that it is time to speak."""

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from .._aggregator import AbstractAggregator, UniformMean
from .._check import as_number, checked
from .._client import AbstractCorrection, AbstractWrapper, LocalSGD
from .._client.reach import only, reached
from .._round import Beginning
from .._tree import tree_add, tree_cast_like, tree_sub, tree_zeros_like
from .._types import Loss
from .._wire import Broadcast
from ..data import AbstractBatching
from .base import AbstractAlgorithm


class _Shift(AbstractCorrection):
    r"""$g - h_i$. Beside its $h_i$ a client hands back its change, and that it has
    one: `step` takes them out again."""

    def init(self, params):
        return tree_zeros_like(params)

    def payload(self, params):
        return params

    def begin(self, params, shared, state, gradient):
        return state

    def correct(self, grads, params, carry, gradient):
        shift, _, _ = carry
        return tree_sub(grads, shift), carry

    def end(self, delta, num_steps, carry):
        shift, _, spoke = carry
        return delta, (shift, delta, (num_steps > 0).astype(spoke.dtype))


class _UntilHeads(AbstractWrapper):
    """Takes the first steps of the plan: as many as are broadcast."""

    client: LocalSGD

    def __init__(self, client: LocalSGD):
        self.client = client

    def init(self, params):
        return self.client.init(params)

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        end = jnp.minimum(broadcast.shared, data.num_steps)
        data = data.between(jnp.zeros_like(end), end)
        return self.client.round(broadcast, data, state, key=key)


class Scaffnew(AbstractAlgorithm):
    r"""ProxSkip for federated learning: communication is skipped at random, and the
    clients' shifts take the drift out.

    All clients step from the server's $x$ with $g - h_i$, and after each step one coin
    for all, heads with probability $p$, says whether they speak: after $K$ steps,
    $P(K = k) = p\, (1 - p)^{k - 1}$. The server takes the mean of their models $\hat
    x_i$, and each of them renews its shift,

    $$x \leftarrow \frac1{|S|} \sum_{i \in S} \hat x_i, \qquad h_i \leftarrow h_i +
    \frac p\gamma (x - \hat x_i).$$

    For strongly convex functions of condition number $\kappa$ and $p = 1 /
    \sqrt\kappa$ it converges linearly in $O(\sqrt\kappa \log \frac1\epsilon)$ rounds.

    In the paper all clients take part. Where some do not, the shifts of those that do
    still add up to what they were, as the mean is theirs. A round ends with the plan at
    the latest, after `min(K, steps)`: plan equal numbers of steps, several times $1 /
    p$, as `Steps(number, batch_size=...)` does.

    **Arguments:**

    - `loss`, `batching`: as in [`equifed.FedAvg`][].
    - `learning_rate`: $\gamma > 0$, of the clients' plain SGD.
    - `probability`: $p$, above 0 and up to 1.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [ProxSkip: Yes! Local Gradient Steps Provably Lead to Communication
        Acceleration! Finally!](https://arxiv.org/abs/2202.09357), Algorithm 2

        ```bibtex
        @inproceedings{mishchenko2022proxskip,
            title={{ProxSkip}: {Y}es! {L}ocal {G}radient {S}teps {P}rovably {L}ead to
                   {C}ommunication {A}cceleration! {F}inally!},
            author={Mishchenko, Konstantin and Malinovsky, Grigory and Stich, Sebastian
                    and Richt{\'a}rik, Peter},
            booktitle={ICML},
            year={2022},
        }
        ```
    """

    loss: Loss
    batching: AbstractBatching
    learning_rate: Float[Array, ""]
    probability: Float[Array, ""]
    aggregator: AbstractAggregator

    @checked()
    def __init__(
        self,
        loss: Loss,
        learning_rate: ArrayLike,
        batching: AbstractBatching,
        *,
        probability: ArrayLike,
        aggregator: AbstractAggregator | None = None,
    ):
        self.loss, self.batching = loss, batching
        self.learning_rate = as_number(
            "learning_rate", learning_rate, least=0, strict=True
        )
        self.probability = as_number(
            "probability", probability, least=0, strict=True, most=1
        )
        self.aggregator = UniformMean() if aggregator is None else aggregator

    def begin(self, params, *, num_clients, key):
        shift = tree_zeros_like(params)
        return Beginning(params, None, self.aggregator.init(params), shift)

    def step(self, state, clients, *, key):
        coin_key, local_key = jr.split(key)
        local = LocalSGD(
            self.loss, optax.sgd(self.learning_rate), self.batching, _Shift()
        )
        steps = steps_until_heads(coin_key, self.probability)
        sent = Broadcast(state.params, state.rest, steps)
        silent = jnp.zeros(clients.index.shape, jnp.result_type(float))
        slots = (state.clients, tree_zeros_like(state.clients), silent)
        out = clients(
            _UntilHeads(local),
            self.aggregator,
            sent,
            slots,
            state.aggregator,
            key=local_key,
        )
        change = tree_cast_like(out.aggregate.payload, state.params)
        where = reached(self.loss, sent, clients.example)
        change = only(where, change, tree_zeros_like(change))

        shifts, own, spoke = out.clients
        rate = spoke * self.probability / self.learning_rate

        def renew(shift, own, change):
            by = rate.reshape(rate.shape + (1,) * change.ndim)
            return shift + by.astype(shift.dtype) * (change[None, None] - own)

        state = dataclasses.replace(
            state,
            params=tree_add(state.params, change),
            aggregator=out.aggregator,
            clients=jtu.tree_map(renew, shifts, own, change),
        )
        return state, out.metrics, out.aggregate.accept

    def model(self, state):
        return state.model


def steps_until_heads(
    key: PRNGKeyArray, probability: Float[Array, ""]
) -> Int[Array, ""]:
    """How often a coin is thrown until it shows heads."""
    thrown = jr.geometric(key, probability, dtype=jnp.result_type(int))
    return jnp.maximum(thrown, 1).astype(jnp.int32)
