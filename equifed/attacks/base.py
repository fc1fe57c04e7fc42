"""What an attack is: what the attackers see of a round, and what they send in it.

A message is a row of numbers here, so that an attack reads as the formula of its paper.
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._overrides import inherit_types


class Seen(eqx.Module):
    """What the attackers see of a round."""

    messages: Float[Array, "messages numbers"]
    """What each client would send by the algorithm, an attacker too, in the order of
    the clients' numbers. The attackers know the rows `known`, and their own."""
    weight: Float[Array, " messages"]
    """The messages' weights; 0 where there is none."""
    index: Int[Array, " messages"]
    """The clients' numbers."""
    byzantine: Bool[Array, " messages"]
    """Which messages are the attackers'."""
    known: Bool[Array, " messages"]
    """Which messages the attackers take as examples of honest ones. All are finite."""
    aggregate: Callable[
        [Float[Array, "messages numbers"], PRNGKeyArray], Float[Array, " numbers"]
    ]
    """What the server's aggregator would make of such rows, and of a key."""

    @property
    def num_messages(self) -> Int[Array, ""]:
        return (self.weight > 0).sum()

    @property
    def num_byzantine(self) -> Int[Array, ""]:
        return self.byzantine.sum()

    def mean(self) -> Float[Array, " numbers"]:
        """The mean of the messages that are known."""
        x = jnp.where(self.known[:, None], self.messages, 0)
        return x.sum(0) / jnp.maximum(self.known.sum(), 1).astype(x.dtype)

    def centred(self) -> Float[Array, "messages numbers"]:
        """The messages that are known less their mean, and 0 in all other rows."""
        return jnp.where(self.known[:, None], self.messages - self.mean()[None], 0)

    def std(self) -> Float[Array, " numbers"]:
        """The standard deviation of each number, over the messages that are known."""
        x = self.centred()
        count = jnp.maximum(self.known.sum(), 1).astype(x.dtype)
        return jnp.sqrt(jnp.square(x).sum(0) / count)


class AbstractAttack(eqx.Module):
    """What attackers send. Subclass it for an attack of your own."""

    needs_minority: ClassVar[bool] = False
    """Whether it is defined for attackers who are at most half of the clients alone."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def attack(
        self, seen: Seen, *, key: PRNGKeyArray
    ) -> Float[Array, "messages numbers"] | Float[Array, " numbers"]:
        """What the attackers send: a row for each message, of which those of the
        attackers are taken, or one row that all of them send."""
