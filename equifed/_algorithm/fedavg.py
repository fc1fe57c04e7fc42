"""FedAvg."""

import optax

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import checked
from .._client import LocalSGD
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class FedAvg(AbstractOnePass):
    r"""Federated averaging, and with another server optimiser FedOpt.

    Each client $i$ runs local SGD from the server's model $x$ to $\theta_i$; the
    server steps along the mean change, weighted by the numbers of examples $n_i$:

    $$x \leftarrow x + \sum_i \frac{n_i}{\sum_j n_j} (\theta_i - x).$$

    **Arguments:**

    - `loss`: the loss of one example, `loss(model, example, key)`.
    - `client_optim`: the clients' Optax optimiser.
    - `batching`: how a client goes through its examples.
    - `server_optim`: the server's Optax optimiser on minus the mean change;
        `optax.sgd(1.0)` if not given.
    - `aggregator`: [`equifed.WeightedMean`][] if not given.

    ??? cite "Reference"

        [Communication-Efficient Learning of Deep Networks from Decentralized
        Data](https://arxiv.org/abs/1602.05629)

        ```bibtex
        @inproceedings{mcmahan2017communication,
            title={{C}ommunication-{E}fficient {L}earning of {D}eep {N}etworks from
                   {D}ecentralized {D}ata},
            author={McMahan, Brendan and Moore, Eider and Ramage, Daniel and Hampson,
                    Seth and Ag{\"u}era y Arcas, Blaise},
            booktitle={AISTATS},
            year={2017},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: OptaxServer

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
