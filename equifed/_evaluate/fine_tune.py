"""Fine-tuning: a client adapts a model to its own examples before it is evaluated."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from .._aggregator import UniformMean
from .._check import check_kind, checked
from .._client import AbstractClient, AbstractWrapper, LocalSGD
from .._cohort import Cohort, NO_CLIENT
from .._executor import Executor, Participants
from .._optim import OptimLike
from .._roles import Roles, split_model
from .._round.places import everywhere, first
from .._tree import split_params, tree_add, tree_there
from .._types import Loss, Model, Params
from .._warn import warn
from .._wire import Broadcast, Message
from ..data import AbstractBatching, cohort as cohort_of, FederatedDataset


class FineTune(eqx.Module):
    r"""Local steps that a client takes from its model before it is evaluated.

    After [`equifed.FedAvg`][] it is the baseline of personal models; FedBABU's head is
    learnt so, and Per-FedAvg's model is made for it (with one step of plain SGD, at
    the rate $\alpha$). The optimiser's state starts afresh; that of a model under a
    [`equifed.Stateful`][] loss stays as it is.

    **Arguments:**

    - `loss`, `optim`, `batching`: as those of [`equifed.LocalSGD`][].
    - `roles`: which leaves are tuned, those that are shared or personal in it; by
        default all that can be trained, what was frozen in training as well: name
        the adapters of a large backbone, or each client has a copy of all of it.

    !!! example

        ```python
        head = eqf.roles(model, shared=lambda m: m.layers[-1])
        batching = eqf.data.Epochs(5, batch_size=20)
        tune = eqf.FineTune(loss, optax.sgd(0.05), batching, roles=head)
        ```
    """

    client: LocalSGD
    roles: Roles | None

    @checked()
    def __init__(
        self,
        loss: Loss,
        optim: OptimLike,
        batching: AbstractBatching,
        *,
        roles: Roles | None = None,
    ):
        check_kind("batching", batching, AbstractBatching)
        self.client = LocalSGD(loss, optim, batching)
        self.roles = roles

    def split(self, model: Model) -> tuple[Params, Model]:
        """What is tuned of a model, and the rest."""
        shared, personal, statistics, rest = split_model(model, self.roles)
        own, own_statistics = split_params(personal)
        rest = eqx.combine(rest, statistics, own_statistics)
        return eqx.combine(shared, own), rest


class _Tunes(AbstractWrapper):
    """A client of an evaluation: what it keeps are the leaves of its model that others
    do not have, of which some are tuned, and whether it has come to the end of that."""

    client: LocalSGD
    tuned: Params
    """True where a leaf is tuned."""

    def __init__(self, client: LocalSGD, tuned: Params):
        self.client = client
        self.tuned = tuned

    def init(self, params):
        return params

    def payload(self, params):
        return None

    def round(self, broadcast, data, state, *, key):
        own, done = state
        params, kept = eqx.partition(own, self.tuned)
        at = Broadcast(params, eqx.combine(kept, broadcast.rest))
        message, _, metrics = self.client.round(at, data, None, key=key)
        new = eqx.combine(tree_add(params, message.payload), kept)
        state = (new, jnp.ones_like(done))
        return Message(None, message.weight), state, metrics


def fine_tuned(
    tune: FineTune,
    own: Model,
    common: Model,
    dataset: FederatedDataset,
    numbers: np.ndarray,
    key: PRNGKeyArray,
    *,
    mesh: Mesh | None = None,
) -> tuple[Model, np.ndarray]:
    """The clients' leaves after fine-tuning, and for which of them it diverged.

    **Arguments:**

    - `own`: the leaves that each client has for itself, stacked.
    - `common`: the others.
    - `dataset`, `numbers`: on whose examples: clients of a dataset, each once, and -1
        for one that is not there to be tuned.
    - `mesh`: the devices that share them.
    """
    there = np.flatnonzero(numbers >= 0)
    if not there.size:
        return own, np.zeros(len(numbers), bool)
    clients = numbers[there]
    cohort = cohort_of(
        *(dataset, tune.client.batching), clients=clients, resident=False, mesh=mesh
    )
    own, common = everywhere((own, common), mesh)
    # Where the client in a slot stands among ours; nowhere, if the slot is empty.
    place = np.full(dataset.num_clients, len(numbers))
    place[clients] = there
    index = np.asarray(first(cohort.index, mesh))
    seat = np.where(
        index == NO_CLIENT, len(numbers), place[np.minimum(index, len(place) - 1)]
    )
    new, done = _tuned(tune, own, common, cohort, jnp.asarray(seat), key)
    failed = ~np.asarray(first(done, mesh))
    if failed.any():
        warn(
            f"Fine-tuning diverged for {int(failed.sum())} clients, whose metrics are "
            "NaN. Lower its learning rate."
        )
    return new, failed


@eqx.filter_jit
def _tuned(
    tune: FineTune,
    own: Model,
    common: Model,
    cohort: Cohort,
    seat: Array,
    key: PRNGKeyArray,
) -> tuple[Model, Array]:
    one = jtu.tree_map(lambda x: x[0], own)
    tuned = tree_there(tune.split(eqx.combine(one, common))[0])
    client: AbstractClient = _Tunes(tune.client, tuned)
    # Who has no slot has nothing to do.
    count = jtu.tree_leaves(own)[0].shape[0]
    begun = own, jnp.ones(count, bool)
    states = jtu.tree_map(lambda x: x.at[seat].get(mode="clip"), own)
    states = states, jnp.zeros(seat.shape, bool)
    clients = Participants(Executor(), cohort, jnp.zeros((), jnp.int32))
    sent = Broadcast(None, common)
    out: Any = clients(client, UniformMean(), sent, states, key=key)
    return jtu.tree_map(lambda x, y: x.at[seat].set(y, mode="drop"), begun, out.clients)
