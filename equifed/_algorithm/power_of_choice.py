"""Power-of-choice: of those that could take part, those with the highest loss do."""

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int

from .._bits import add_bits
from .._check import check_count, checked
from .._executor import Participants
from .._wire import Broadcast
from .around import _AbstractAround
from .base import AbstractAlgorithm
from .measured import check_one_model, measured_losses


class PowerOfChoice(_AbstractAround):
    r"""Wraps an algorithm: its rounds are those of the $m$ clients, of all that the
    loader draws, whose mean loss at the server's model is the highest.

    The paper draws $d \ge m$ candidates without replacement, with chances in
    proportion to their numbers of examples, as [`equifed.data.WeightedSampler`][] does.
    The loss is that of all a candidate's examples: one more pass, without gradients.

    **Arguments:**

    - `algorithm`: any algorithm that trains one model.
    - `num_chosen`: $m$, how many clients take part.

    A candidate that takes no step, or whose loss is NaN, comes last; among equals the
    one with the smaller number comes first. The metrics are those of the clients that
    were chosen.

    ??? cite "Reference"

        [Client Selection in Federated Learning: Convergence Analysis and
        Power-of-Choice Selection Strategies](https://arxiv.org/abs/2010.01243)

        ```bibtex
        @article{cho2020client,
            title={{C}lient {S}election in {F}ederated {L}earning: {C}onvergence
                   {A}nalysis and {P}ower-of-{C}hoice {S}election {S}trategies},
            author={Cho, Yae Jee and Wang, Jianyu and Joshi, Gauri},
            journal={arXiv:2010.01243},
            year={2020},
        }
        ```
    """

    algorithm: AbstractAlgorithm
    num_chosen: int
    asks_first = True

    @checked()
    def __init__(self, algorithm: AbstractAlgorithm, num_chosen: int):
        self.algorithm = algorithm
        self.num_chosen = check_count("num_chosen", num_chosen)

    def begin(self, params, *, num_clients, key):
        return self.algorithm.begin(params, num_clients=num_clients, key=key)

    def step(self, state, clients, *, key):
        measure_key, key = jr.split(key)
        check_one_model(self, self.algorithm, state)
        sent = Broadcast(state.params, state.rest)
        measured = measured_losses(
            clients, self.loss, self.batching, sent, key=measure_key
        )
        chosen = highest(measured.clients, clients, self.num_chosen)
        state, metrics, accept = self.algorithm.step(
            state, clients.only(chosen), key=key
        )
        return state, add_bits(metrics, measured.metrics), accept

    def model(self, state):
        return self.algorithm.model(state)

    def own_model(self, state, kept):
        return self.algorithm.own_model(state, kept)


def highest(
    values: Float[Array, "devices slots"],
    clients: Participants,
    count: int | Int[Array, ""],
) -> Bool[Array, "devices slots"]:
    """Which slots hold the highest values, wherever they are seated."""
    values = jnp.where(clients.present & ~jnp.isnan(values), values, -jnp.inf)
    order = jnp.lexsort((clients.index.reshape(-1), -values.reshape(-1)))
    places = jnp.arange(order.size, dtype=jnp.int32)
    rank = jnp.zeros_like(places).at[order].set(places)
    return (rank.reshape(values.shape) < count) & clients.present
