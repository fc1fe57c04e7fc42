"""Hyper-parameters that change from round to round."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._check import check_kind, checked
from .._lookups import Numbered
from .._roles import Role
from .._types import Loss
from .._words import shown
from ..data import AbstractBatching
from .base import AbstractAlgorithm


class OverRounds(AbstractAlgorithm):
    r"""An algorithm whose numbers are functions of the round.

    Most tables of the field let the clients' learning rate fall from round to round,
    $\eta_t = 0.1 \cdot 0.998^t$. Here any number of an algorithm may: `make(t)` builds
    it for round $t = 0, 1, \dots$, which is traced, so that it is compiled once. (An
    Optax schedule *inside* of a client's optimiser is another thing: it counts the
    client's local steps, and begins anew in every round.)

    **Arguments:**

    - `make`: a function of the round, an integer array, that returns an algorithm. What
        is not a number must not depend on the round.

    !!! example

        ```python
        decay = optax.exponential_decay(0.1, transition_steps=1, decay_rate=0.998)
        algorithm = eqf.OverRounds(
            lambda t: eqf.FedProx(loss, optax.sgd(decay(t)), batching, mu=0.1 / (t + 1))
        )
        ```
    """

    make: Callable[[Int[Array, ""]], AbstractAlgorithm]
    first: AbstractAlgorithm
    """That of round 0: it is asked for all that is the same in every round."""

    @checked()
    def __init__(self, make: Callable[[Int[Array, ""]], AbstractAlgorithm]):
        self.make = make
        first = make(jnp.zeros((), jnp.int32))
        check_kind("make(0)", first, AbstractAlgorithm)
        _check_traced(make)
        self.first = first

    @property
    def loss(self) -> Loss:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.first.loss

    @property
    def batching(self) -> AbstractBatching:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.first.batching

    def begin(self, params, *, num_clients, key):
        return self.first.begin(params, num_clients=num_clients, key=key)

    def step(self, state, clients, *, key):
        return self.make(state.round).step(state, clients, key=key)

    def model(self, state):
        return self.first.model(state)

    def models(self, state):
        return self.first.models(state)

    @property
    def carries_state(self) -> bool:
        return self.first.carries_state

    @property
    def needs(self) -> tuple[Role, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.first.needs

    @property
    def _numbered(self) -> tuple[Numbered, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.first._numbered

    @property
    def keeps_statistics(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.first.keeps_statistics

    def keep(self, params, personal, begun):
        return self.first.keep(params, personal, begun)

    def own_model(self, state, kept):
        return self.first.own_model(state, kept)


def _check_traced(make: Callable[[Int[Array, ""]], AbstractAlgorithm]) -> None:
    """Refuses a function that asks for the number of the round."""
    try:
        eqx.filter_eval_shape(make, jnp.zeros((), jnp.int32))
    except jax.errors.JAXTypeError:
        raise TypeError(
            f"`make` asks for the number of the round, got {shown(make)}, but a round "
            "is compiled once for all numbers: write `jnp.where(t < 10, 0.1, 0.01)` "
            "for `0.1 if t < 10 else 0.01`, and functions of `jax.numpy` for those of "
            "NumPy and for `float`."
        ) from None
