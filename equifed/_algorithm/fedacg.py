"""FedACG: clients start where the server's momentum will take the model."""

import dataclasses

from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked, number
from .._client import LocalSGD, Proximal
from .._optim import OptimLike
from .._round import Beginning
from .._tree import tree_add, tree_add_scaled, tree_cast_like, tree_zeros_like
from .._types import Loss
from .._wire import Broadcast
from ..data import AbstractBatching
from .of_client import _AbstractOfClient


class FedACG(_AbstractOfClient):
    r"""Accelerated client gradient: a look ahead along the server's momentum.

    The server sends $z = x + \lambda m$ with its momentum $m$ (0 at first). Client $i$
    minimises $F_i(\theta) + \frac\beta2 \lVert \theta - z \rVert^2$ from $z$ to
    $\theta_i$. Over the participants $S$,

    $$m \leftarrow \lambda m + \frac{1}{|S|} \sum_{i \in S} (\theta_i - z), \qquad
    x \leftarrow x + m.$$

    The model is $x$, and nothing is sent beside the params. The metrics of the clients
    begin at $z$.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][]. The paper's
        clients run plain SGD.
    - `momentum`: $\lambda$, from 0 to below 1. At 0, with `beta=0`, this is FedAvg.
    - `beta`: $\beta \ge 0$, how strongly a client is pulled to where it started.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [Communication-Efficient Federated Learning with Accelerated Client
        Gradient](https://arxiv.org/abs/2201.03172)

        ```bibtex
        @inproceedings{kim2024communication,
            title={{C}ommunication-{E}fficient {F}ederated {L}earning with {A}ccelerated
                   {C}lient {G}radient},
            author={Kim, Geeho and Kim, Jinkyu and Han, Bohyung},
            booktitle={CVPR},
            year={2024},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    momentum: Float[Array, ""]

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        momentum: ArrayLike,
        beta: ArrayLike,
        aggregator: AbstractAggregator | None = None,
    ):
        pull = Proximal(number("beta", least=0)(beta))
        self.client = LocalSGD(loss, client_optim, batching, pull)
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.momentum = number("momentum", least=0, below=1)(momentum)

    def begin(self, params, *, num_clients, key):
        at_aggregator = self.aggregator.init(params)
        kept = self.client.init(params)
        return Beginning(params, tree_zeros_like(params), at_aggregator, kept)

    def step(self, state, clients, *, key):
        x, m = state.params, state.server
        ahead = Broadcast(tree_add_scaled(x, self.momentum, m), state.rest)
        out = clients(
            self.client,
            self.aggregator,
            ahead,
            state.clients,
            state.aggregator,
            key=key,
        )
        m = tree_add_scaled(out.aggregate.payload, self.momentum, m)
        state = dataclasses.replace(
            state,
            params=tree_add(x, m),
            server=tree_cast_like(m, x),
            aggregator=out.aggregator,
            clients=out.clients,
        )
        return state, out.metrics, out.aggregate.accept

    def model(self, state):
        return state.model
