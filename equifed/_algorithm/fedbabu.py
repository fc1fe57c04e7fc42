"""FedBABU: the body is learnt under a head that stays as it began."""

import optax

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import checked
from .._client import LocalSGD
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class FedBABU(AbstractOnePass):
    r"""Body aggregation and body update: the head stays as it began.

    The clients train the body alone, under one random head that nobody changes, and the
    server averages it by numbers of examples. A head is learnt afterwards, by each
    client for itself: [`equifed.FineTune`][] with its own examples.

    The head is what [`equifed.roles`][] makes frozen:

    ```python
    roles = eqf.roles(model, frozen=lambda m: m.layers[-1])
    ```

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `aggregator`: as in
        [`equifed.FedAvg`][].

    ??? cite "Reference"

        [FedBABU: Towards Enhanced Representation for Federated Image
        Classification](https://arxiv.org/abs/2106.06042)

        ```bibtex
        @inproceedings{oh2022fedbabu,
            title={{FedBABU}: {T}owards {E}nhanced {R}epresentation for {F}ederated
                   {I}mage {C}lassification},
            author={Oh, Jaehoon and Kim, Sangmook and Yun, Se-Young},
            booktitle={ICLR},
            year={2022},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: OptaxServer
    needs = ("frozen",)

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
