r"""FedNova: the client's message, the server's part, and the algorithm.

With an optimiser that is linear in its gradients, a client's change is a weighted sum
of them, $\Delta_i = -\eta \sum_k a_{i,k} g_k$. FedNova needs $\eta \lVert a_i
\rVert_1$. The paper derives it by hand for momentum and for proximal terms; but it is
simply how far the same optimiser carries one number whose gradient is 1 at every step.
So that is what is run.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optax

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import check_kind, checked
from .._client import AbstractCorrection, AbstractWrapper, LocalSGD, NoCorrection
from .._loop import fold_range
from .._optim import OptimLike
from .._server import AbstractServer, OptaxServer
from .._tree import tree_add, tree_divide, tree_scale
from .._types import Loss
from .._wire import CHANGE
from .._words import shown
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


FEDNOVA = "FedNova's change for a length of 1 (`Normalized`, `NovaServer`)"


class Normalized(AbstractWrapper):
    r"""Wraps `LocalSGD`: sends $\Delta_i / s_i$, and $s_i = \eta \lVert a_i \rVert_1$
    in the message's `stats`.

    Exact for SGD with or without momentum, Nesterov's included, under any schedule,
    and with a proximal correction. For other optimisers $s_i$ is the distance that a
    constant gradient of 1 would have travelled. One that treats leaves differently
    (masks, several optimisers) has no single length, and is refused.
    """

    sends = (FEDNOVA,)
    client: LocalSGD

    @checked()
    def __init__(self, client: LocalSGD):
        self.client = client

    def __check_init__(self):
        if self.client.sends and CHANGE not in self.client.sends:
            raise ValueError(
                "`Normalized` (FedNova) takes `NoCorrection` or `Proximal`, got "
                f"`{type(self.client.correction).__name__}`, which remembers a "
                "gradient: the change is then no sum of this round's gradients alone."
            )
        optim = self.client.optim
        if optim.needs:
            raise TypeError(
                f"FedNova cannot normalise the steps of the optimiser `{optim.names}`, "
                "whose length depends on the loss. Use one that asks for gradients and "
                "params alone, or FedAvg."
            )

    def init(self, params):
        optim = self.client.optim
        several = (optax.MaskedState, optax.PartitionState)
        state = jax.eval_shape(optim.init, params)
        parts = jtu.tree_leaves(state, is_leaf=lambda x: isinstance(x, several))
        if any(isinstance(x, several) for x in parts):
            raise ValueError(
                "FedNova divides a client's change by the length of its steps, and the "
                f"optimiser `{optim.names}` steps differently for different leaves. "
                "Use one optimiser for all of them, or FedAvg."
            )
        return self.client.init(params)

    def payload(self, params):
        return self.client.payload(params)

    def round(self, broadcast, data, state, *, key):
        optim, correction = self.client.optim, self.client.correction
        message, new_state, metrics = self.client.round(broadcast, data, state, key=key)
        dtype = jnp.result_type(float)
        one, zero = jnp.ones((), dtype), jnp.zeros((), dtype)

        def step(i, carry):
            place, optim_state, corrected = carry
            grad, corrected = correction.correct(one, place, corrected, lambda _: one)
            update, optim_state = optim.update(grad, optim_state, place)
            return tree_add(place, update), optim_state, corrected

        corrected = correction.begin(zero, None, None, lambda _: one)
        carry = (zero, optim.init(zero), corrected)
        bound = data.order.shape[0]
        place, _, _ = fold_range(
            step, carry, data.num_steps, bound, differentiable=data.differentiable
        )
        scale = -place
        payload = tree_divide(message.payload, scale)
        message = dataclasses.replace(message, payload=payload, stats=scale)
        return message, new_state, metrics


class NovaServer(AbstractServer):
    r"""Hands $\overline{s} \cdot \overline{\Delta / s}$ to another server, where
    $\overline{s}$ is the mean of the clients' $\eta \lVert a_i \rVert_1$."""

    understands = (FEDNOVA,)
    server: AbstractServer

    def __check_init__(self):
        check_kind("server", self.server, AbstractServer)

    def init(self, params, *, num_clients):
        return self.server.init(params, num_clients=num_clients)

    def broadcast(self, params, state):
        return self.server.broadcast(params, state)

    def round(self, params, aggregate, state, *, key):
        if jnp.shape(aggregate.stats) != ():
            raise TypeError(
                "`NovaServer` takes the length of the clients' steps from the `stats` "
                f"of their messages, got {shown(aggregate.stats)}. It goes with "
                "`Normalized`."
            )
        payload = tree_scale(aggregate.stats, aggregate.payload)
        aggregate = eqx.tree_at(lambda a: a.payload, aggregate, payload)
        return self.server.round(params, aggregate, state, key=key)


class FedNova(AbstractOnePass):
    r"""FedAvg without the bias of unequal numbers of local steps.

    Client $i$'s change is a weighted sum of its gradients, $\Delta_i = -\eta \sum_k
    a_{i,k} g_{i,k}$. The server averages the normalised changes, and takes a common
    length:

    $$x \leftarrow x + \tau_\text{eff} \sum_i p_i \frac{\Delta_i}{\lVert a_i \rVert_1},
    \qquad \tau_\text{eff} = \sum_i p_i \lVert a_i \rVert_1, \qquad
    p_i = \frac{n_i}{\sum_j n_j}.$$

    $\lVert a_i \rVert_1$ is the number of steps for SGD, and follows momentum,
    schedules and a proximal term by itself.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `aggregator`: as in
        [`equifed.FedAvg`][].
    - `correction`: `Proximal(mu)` for the paper's proximal variant.

    ??? cite "Reference"

        [Tackling the Objective Inconsistency Problem in Heterogeneous Federated
        Optimization](https://arxiv.org/abs/2007.07481)

        ```bibtex
        @inproceedings{wang2020tackling,
            title={{T}ackling the {O}bjective {I}nconsistency {P}roblem in
                   {H}eterogeneous {F}ederated {O}ptimization},
            author={Wang, Jianyu and Liu, Qinghua and Liang, Hao and Joshi, Gauri and
                    Poor, H. Vincent},
            booktitle={NeurIPS},
            year={2020},
        }
        ```
    """

    client: Normalized
    aggregator: AbstractAggregator
    server: NovaServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        correction: AbstractCorrection | None = None,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        correction = NoCorrection() if correction is None else correction
        self.client = Normalized(LocalSGD(loss, client_optim, batching, correction))
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = NovaServer(OptaxServer(server_optim))
