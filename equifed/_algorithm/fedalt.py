"""FedAlt: partial personalisation, by alternating updates."""

import optax

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import checked
from .._client.alternating import Alternating
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class FedAlt(AbstractOnePass):
    r"""Partial personalisation with alternating updates.

    A client first takes steps on its personal leaves $v_i$ at the server's $u$, and
    then steps on the shared ones at the new $v_i$. The server takes the mean of the
    $u_i$ by numbers of examples. Personal may be any leaves: inputs, outputs, adapters;
    see [`equifed.roles`][]. The paper's simultaneous form, FedSim, is
    [`equifed.FedPer`][].

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`: as in [`equifed.FedAvg`][].
    - `personal_optim`: the optimiser of the personal leaves; `client_optim` if not
        given.
    - `personal_parts`, `shared_parts`: how a client's planned steps are parted. Of
        every $a + b$ the first $a$ are for its personal leaves: with
        `Epochs(a + b, ...)` these are $a$ epochs.
        By default half of the steps each.
    - `aggregator`: [`equifed.WeightedMean`][] if not given.

    ??? cite "Reference"

        [Federated Learning with Partial Model Personalization](https://arxiv.org/abs/2204.03809)

        ```bibtex
        @inproceedings{pillutla2022federated,
            title={{F}ederated {L}earning with {P}artial {M}odel {P}ersonalization},
            author={Pillutla, Krishna and Malik, Kshitiz and Mohamed, Abdelrahman and
                    Rabbat, Michael and Sanjabi, Maziar and Xiao, Lin},
            booktitle={ICML},
            year={2022},
        }
        ```
    """

    client: Alternating
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
        personal_optim: OptimLike | None = None,
        personal_parts: int = 1,
        shared_parts: int = 1,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = Alternating(
            loss,
            client_optim if personal_optim is None else personal_optim,
            client_optim,
            batching,
            personal_parts=personal_parts,
            shared_parts=shared_parts,
        )
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        self.server = OptaxServer(
            optax.sgd(1.0) if server_optim is None else server_optim
        )
