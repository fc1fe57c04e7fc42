"""LG-FedAvg: local representations under a shared head."""

import optax

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import checked
from .._client import LocalSGD
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class LGFedAvg(AbstractOnePass):
    r"""Local representations under a global model.

    It is [`equifed.FedPer`][] turned round: each client keeps the layers that make its
    representation, $v_i$, and what is learnt on top of them, $u$, is shared and
    averaged by numbers of examples. Both are trained at once. Make the first layers
    personal by [`equifed.roles`][].

    Of the paper this is the supervised method; its auxiliary losses and adversarial
    training can be parts of `loss`. The paper begins with a global model from some
    rounds of [`equifed.FedAvg`][]: give its `solution.model` to `init`.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `aggregator`: as in
        [`equifed.FedAvg`][].

    ??? cite "Reference"

        [Think Locally, Act Globally: Federated Learning with Local and Global
        Representations](https://arxiv.org/abs/2001.01523)

        ```bibtex
        @article{liang2020think,
            title={{T}hink {L}ocally, {A}ct {G}lobally: {F}ederated {L}earning with
                   {L}ocal and {G}lobal {R}epresentations},
            author={Liang, Paul Pu and Liu, Terrance and Ziyin, Liu and Allen, Nicholas
                    B. and Auerbach, Randy P. and Brent, David and Salakhutdinov, Ruslan
                    and Morency, Louis-Philippe},
            journal={arXiv:2001.01523},
            year={2020},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: OptaxServer
    needs = ("personal",)

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        self.server = OptaxServer(
            optax.sgd(1.0) if server_optim is None else server_optim
        )
