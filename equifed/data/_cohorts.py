"""Where the cohorts of a training come from."""

import abc
from collections.abc import Iterator, Mapping

from jax.sharding import Mesh

from .._cohort import Cohort
from ._batching import AbstractBatching


class AbstractLoader(abc.ABC):
    """Makes the cohorts of successive rounds. `rounds` and `train` take any.

    Subclass it for rounds that no sampler draws: clients that arrive by a clock of
    their own, a simulator of devices, someone else's data pipeline. A cohort is a
    [`equifed.Cohort`][]; [`equifed.data.cohort`][] makes one of given clients (with
    `resident=False`, or the whole dataset is sent each time), which
    `dataclasses.replace` gives an `info`.
    """

    batching: AbstractBatching
    """How a client goes through its examples: that of the algorithm."""
    mesh: Mesh | None = None
    """The devices that share a round; that of the cohorts."""

    @property
    @abc.abstractmethod
    def num_clients(self) -> int | None:
        """The size of the population; `None` if it is not known, so that nothing can be
        kept for each client."""

    @abc.abstractmethod
    def cohorts(
        self, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Cohort]]:
        """Makes the cohorts of successive rounds.

        The cohort of a round must not depend on `start`: a training that was broken off
        begins where it was, and should go on as if it had not been.

        **Arguments:**

        - `start`: The first round.
        - `stop`: The round to stop before; `None` if there is no end.

        **Returns:**

        An iterator of pairs of a round's number and its cohort.
        """

    def report(self, round: int) -> Mapping[str, int | float]:
        """What the history of a training is to have of a round beside its metrics, such
        as how much time has passed: numbers by name, known on the host.

        By default nothing. It must be a function of the round alone.

        **Arguments:**

        - `round`: The number of the round, from 0.
        """
        return {}
