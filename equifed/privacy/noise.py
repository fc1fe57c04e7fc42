"""Noise that hides what one client changes, in the rounds of a training.

The noise of a round may depend on that of the rounds before: correlated so that it
partly cancels in the sum over rounds, which is what a model is. In the words of the
matrix mechanism (arXiv 2306.08153): with independent normal rows $Z$ the rounds' noise
is $C^{-1} Z$, for a lower triangular strategy $C$, and what counts for privacy is how
much one client changes $C$ times the rounds' sums: the sensitivity of $C$.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._overrides import inherit_types
from .._tree import wide_dtype
from ..data import OrderedParticipation


class AbstractNoise(eqx.Module):
    """Normal noise for the sums of successive rounds."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @property
    @abc.abstractmethod
    def is_independent(self) -> bool:
        """Whether the noise of a round does not depend on that of others."""

    @property
    @abc.abstractmethod
    def most_rounds(self) -> int | None:
        """For how many rounds it is made, if not for any number."""

    @abc.abstractmethod
    def init(self, payload: PyTree) -> PyTree:
        """What is kept from round to round; `None` if nothing."""

    @abc.abstractmethod
    def draw(
        self,
        payload: PyTree,
        state: PyTree,
        *,
        round: Int[Array, ""],
        key: PRNGKeyArray,
    ) -> tuple[PyTree, PyTree]:
        """The noise of a round, for fresh noise of standard deviation 1, in the shapes
        of the payload; and the new state.

        **Arguments:**

        - `round`: how many rounds went before.
        - `key`: of this round.
        """

    @abc.abstractmethod
    def sensitivity(
        self, participation: OrderedParticipation, num_rounds: int
    ) -> float:
        """How much at most one client, each of whose messages has norm 1, changes the
        strategy's product with the first rounds' sums."""


class IndependentNoise(AbstractNoise):
    """Fresh noise in every round: the Gaussian mechanism."""

    @property
    def is_independent(self):
        return True

    @property
    def most_rounds(self):
        return None

    def init(self, payload):
        return None

    def draw(self, payload, state, *, round, key):
        return normal_like(payload, key), state

    def sensitivity(self, participation, num_rounds):
        return float(np.sqrt(participation.most_rounds(num_rounds)))


def normal_like(payload: PyTree, key: PRNGKeyArray) -> PyTree[Array]:
    """Independent standard normal numbers, in float32 at least."""
    leaves, structure = jtu.tree_flatten(payload)
    keys = jr.split(key, max(len(leaves), 1))
    drawn = [
        jr.normal(k, x.shape, wide_dtype(x.dtype))
        for k, x in zip(keys, leaves, strict=False)
    ]
    return jtu.tree_unflatten(structure, drawn)


def scaled_noise(noise: PyTree, scale: Float[Array, ""]) -> PyTree:
    """Noise of that standard deviation. None at all is 0, whatever was drawn."""
    none = scale == 0
    return jtu.tree_map(
        lambda x: jnp.where(none, jnp.zeros_like(x), scale.astype(x.dtype) * x), noise
    )
