"""What of a round the noise of a plan covers, and what its server may not read."""

import abc
import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._aggregator import AbstractAggregator
from .._algorithm import AbstractAlgorithm
from .._algorithm.inside import layers
from .._client import AbstractClient
from .._cohort import Cohort
from .._executor.blocks import Pass
from .._overrides import inherit_types
from .._words import shown
from .mechanism import AbstractMechanism


STATES = "what the clients keep (`state.clients`)"
WHO = "which clients take part (`clients.index`, `clients.present` or `clients.info`)"
COUNT = "the number of messages or another plain sum (`aggregate.count`, say)"
EXAMPLES = "the clients' examples, or what the loader says of them (`clients.info`)"


class AbstractCovering(eqx.Module):
    """For each part of a round what it is, in words, if the server may not read it;
    else `None`."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @property
    @abc.abstractmethod
    def states(self) -> str | None:
        """Of all that the clients keep."""

    @abc.abstractmethod
    def of_cohort(self, cohort: Cohort) -> list[str | None]:
        """Of each leaf of a cohort."""

    @abc.abstractmethod
    def of_sum(self, encoded: PyTree) -> list[str | None]:
        """Of each leaf of the sum of what was encoded in a pass."""

    @abc.abstractmethod
    def check(self, algorithm: AbstractAlgorithm, work: Pass) -> None:
        """Refuses a pass that is not the plan's."""


class NoisedSum(AbstractCovering):
    """A mechanism adds noise to sums of the clients' messages; nothing else is covered
    that is of them."""

    mechanism: AbstractMechanism

    @property
    def states(self):
        return STATES

    def of_cohort(self, cohort):
        return [WHO] * len(jtu.tree_leaves(cohort))

    def of_sum(self, encoded):
        covered = jtu.tree_leaves(self.mechanism.covered(encoded))
        return [None if yes else COUNT for yes in covered]

    def check(self, algorithm, work):
        if not is_the_same(work.aggregator, self.mechanism):
            raise ValueError(_why_not(algorithm, work.aggregator, self.mechanism))


class NoisedInClients(AbstractCovering):
    """The clients add noise to all that they send of their examples, and keep nothing;
    who takes part is known, and how many examples each has."""

    client: AbstractClient

    @property
    def states(self):
        return None

    def of_cohort(self, cohort):
        leaves = jtu.tree_leaves_with_path(cohort)
        private = (".examples", ".info")
        return [EXAMPLES if str(path[0]) in private else None for path, _ in leaves]

    def of_sum(self, encoded):
        return [None] * len(jtu.tree_leaves(encoded))

    def check(self, algorithm, work):
        if not is_the_same(work.client, self.client):
            raise ValueError(
                "The clients must train as the plan's client does, got "
                f"{shown(work.client)} that is another one. Write "
                "`eqx.tree_at(lambda a: a.client, algorithm, plan.client)`."
            )


def is_the_same(x: Any, y: Any) -> bool:
    arrays = jtu.tree_leaves(x)
    if any(isinstance(a, jax.core.Tracer) for a in arrays):
        return False
    with jax.ensure_compile_time_eval():  # inside of a trace
        return bool(eqx.tree_equal(x, y))


def _why_not(
    algorithm: AbstractAlgorithm,
    aggregator: AbstractAggregator,
    mechanism: AbstractMechanism,
) -> str:
    """Why a pass is not the mechanism's, and what to do."""
    all_layers = list(layers(algorithm))
    name = " around ".join(f"`{type(x).__name__}`" for x in all_layers)
    own, got = type(mechanism).__name__, type(aggregator).__name__
    given = [getattr(x, "aggregator", None) for x in all_layers]
    if any(is_the_same(x, mechanism) for x in _parts(aggregator)):
        return (
            f"The plan's `{own}` is inside of `{got}`, and what that does with "
            "messages, or with their sum, is not in the plan. Make the algorithm with "
            "`aggregator=plan.mechanism`."
        )
    if got.startswith("_") or not any(isinstance(x, AbstractAggregator) for x in given):
        return (
            f"{name} does with the clients' messages what no plan is known of: it "
            "weighs, compares or replaces them on its own, not by the plan's "
            f"`{own}` alone. Take an algorithm that only sums them, such as "
            "`FedAvg` with `aggregator=plan.mechanism`."
        )
    if any(is_the_same(x, mechanism) for x in given):
        return (
            f"{name} makes another pass beside that of the plan's `{own}`, aggregated "
            f"by `{got}`: what clients say in it, their losses or gradients, has no "
            "noise. Take an algorithm of one pass, such as `FedAvg`, with nothing "
            "around it that measures clients."
        )
    return (
        f"The algorithm must aggregate with the plan's own mechanism, `{own}`, got "
        f"{shown(aggregator)}, which is not equal to it. Make the algorithm with "
        "`aggregator=plan.mechanism`."
    )


def _parts(aggregator: AbstractAggregator) -> Iterator[Any]:
    """The aggregators inside of one."""
    for name in (x.name for x in dataclasses.fields(aggregator)):
        value = getattr(aggregator, name)
        if isinstance(value, AbstractAggregator):
            yield value
            yield from _parts(value)
