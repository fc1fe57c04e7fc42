"""Asynchronous methods: whoever is done is heard, however old the model it began from.

A round is one version of the server, made from a buffer of messages that arrived since
the last one. Who these are, and how many versions old the model of each is, is said by
who makes the cohorts (`cohort.info["staleness"]`). So a round stays one pass, in which
every client trains from the model that it had downloaded.
"""

import dataclasses
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .._check import check_count, check_kind, checked
from .._executor import Participants
from .._metrics import add_metrics, Average, Sum
from .around import _AbstractAround
from .old_models import FromOldModel, OldModels, staleness_in
from .one_pass import AbstractOnePass, keep_in_pass
from .staleness import AbstractStaleness, ConstantStaleness


class AsynchronousState(eqx.Module):
    """The server's state of the algorithm inside, and the models before this one."""

    server: PyTree
    old: OldModels


class AbstractAsynchronous(_AbstractAround):
    """An algorithm of one pass whose clients train from old models.

    A method of your own gives its fields in its `__init__`, and may override
    `in_round`.
    """

    algorithm: eqx.AbstractVar[AbstractOnePass]
    """What is done in a round."""
    max_staleness: eqx.AbstractVar[int]
    """How many old models are kept."""
    weight: eqx.AbstractVar[AbstractStaleness]
    """What a message is multiplied with."""
    change_from: eqx.AbstractClassVar[Literal["old", "present"]]
    """Whether a client's change is from the model that it began from, or from the
    present one."""

    def __check_init__(self):
        check_kind("algorithm", self.algorithm, AbstractOnePass)
        check_kind("weight", self.weight, AbstractStaleness)
        check_count("max_staleness", self.max_staleness)
        if type(self.algorithm).step is not AbstractOnePass.step:
            raise TypeError(
                "`algorithm` must make its one pass as `FedAvg` does, but "
                f"`{type(self.algorithm).__name__}` has a step of its own, in which "
                "models of different ages would be mixed."
            )

    def in_round(self, most: Int[Array, ""]) -> AbstractOnePass:
        """The algorithm of one round.

        **Arguments:**

        - `most`: the greatest staleness of its messages.
        """
        return self.algorithm

    def begin(self, params, *, num_clients, key):
        begun = self.algorithm.begin(params, num_clients=num_clients, key=key)
        server = self.algorithm.server
        if eqx.filter_eval_shape(server.broadcast, params, begun.server) is not None:
            raise ValueError(
                f"`{type(self).__name__}` keeps old models, and "
                f"`{type(server).__name__}` sends the clients more than a model, of "
                "which nothing old is kept. Take an algorithm that sends the model "
                "alone: `FedAvg`, `FedProx`, `FedAdam` or `FedVARP`, say."
            )
        old = OldModels.none(begun.params, self.max_staleness)
        return dataclasses.replace(begun, server=AsynchronousState(begun.server, old))

    def keep(self, params, personal, begun):
        inner = dataclasses.replace(begun, server=begun.server.server)
        name = type(self).__name__  # whatever it is made of
        return keep_in_pass(self.algorithm, name, params, personal, inner)

    def step(self, state, clients, *, key):
        at = state.server
        staleness = staleness_in(clients.info, type(self).__name__)
        known = (staleness >= 0) & (staleness <= self.max_staleness)
        known = known & (staleness <= state.round)
        heard = clients.only(known & clients.present)
        there, arrived = _arrived(heard), _arrived(clients)
        ages = jnp.where(there, staleness, 0)

        def run(work, executor, cohort, states):
            how = (at.old, self.weight, self.change_from)
            client = FromOldModel(work.client, *how)
            work = dataclasses.replace(work, client=client)
            return heard._run(work, executor, cohort, states)

        before = dataclasses.replace(state, server=at.server)
        after, metrics, accept = self.in_round(ages.max()).step(
            before, dataclasses.replace(heard, _run=run), key=key
        )
        old = at.old.after(state.params, state.round + 1)
        after = dataclasses.replace(after, server=AsynchronousState(after.server, old))
        dropped = arrived & ~there
        total, count, left_out = (
            x.sum().astype(jnp.result_type(float)) for x in (ages, there, dropped)
        )
        found = {"staleness": Average(total, count), "too_stale": Sum(left_out)}
        return after, add_metrics(metrics, found), accept

    def model(self, state):
        return self.algorithm.model(state)

    def own_model(self, state, kept):
        inner = dataclasses.replace(state, server=state.server.server)
        return self.algorithm.own_model(inner, kept)


def _arrived(clients: Participants) -> Bool[Array, "devices slots"]:
    """Which slots have something to say."""
    cohort = clients.cohort
    return clients.present & (cohort.stop > cohort.start)


class Asynchronous(AbstractAsynchronous):
    r"""Wraps an algorithm of one pass: its clients train from old models.

    Client $i$, which began $\tau_i$ versions ago, is sent $x_{t - \tau_i}$; of its
    message $m_i$ the aggregator is given $s(\tau_i)\, m_i$. The rest of the round is
    that of the algorithm. `Asynchronous(FedAvg(loss, optim, batching,
    aggregator=UniformMean()), max_staleness=10)` is [`equifed.FedBuff`][] with $s = 1$.

    A message that is staler than `max_staleness`, or than the server's first version,
    is dropped: its client is not trained, and counts as absent. The metrics gain
    `staleness`, the mean over the messages, and `too_stale`, the number of those
    dropped, which `bits_up` and `bits_down` do not count. A client is sent one model,
    whatever the server keeps.

    The server keeps `max_staleness` models beside its own. What clients keep (FedVARP's
    last change) is what they had kept when their message arrived.

    **Arguments:**

    - `algorithm`: of one pass, that sends its clients the model alone.
    - `max_staleness`: how many old models are kept.
    - `weight`: $s$, [`equifed.ConstantStaleness`][] if not given.

    **Raises:**

    `TypeError` for an algorithm with a step of its own; `ValueError`, in `init`, for
    one that sends more than the model (SCAFFOLD's control variate), and in a round
    whose cohort does not say how stale its messages are.
    """

    algorithm: AbstractOnePass
    max_staleness: int
    weight: AbstractStaleness
    change_from = "old"

    @checked()
    def __init__(
        self,
        algorithm: AbstractOnePass,
        *,
        max_staleness: int,
        weight: AbstractStaleness | None = None,
    ):
        self.algorithm = algorithm
        self.max_staleness = max_staleness
        self.weight = ConstantStaleness() if weight is None else weight
