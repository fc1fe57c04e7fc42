"""FedAvgM."""

import optax
from jaxtyping import ArrayLike

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import checked, within
from .._client import LocalSGD
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class FedAvgM(AbstractOnePass):
    r"""FedAvg with momentum at the server.

    With $\overline\Delta$ the mean change of the clients' models:

    $$v \leftarrow \beta v + \overline\Delta, \qquad x \leftarrow x + \eta v.$$

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `aggregator`: as in [`equifed.FedAvg`][].
    - `momentum`: $\beta$, the server's momentum.
    - `server_learning_rate`: $\eta$, the server's learning rate.

    ??? cite "Reference"

        [Measuring the Effects of Non-Identical Data Distribution for Federated Visual
        Classification](https://arxiv.org/abs/1909.06335)

        ```bibtex
        @article{hsu2019measuring,
            title={{M}easuring the {E}ffects of {N}on-{I}dentical {D}ata {D}istribution
                   for {F}ederated {V}isual {C}lassification},
            author={Hsu, Tzu-Ming Harry and Qi, Hang and Brown, Matthew},
            journal={arXiv:1909.06335},
            year={2019},
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
        momentum: ArrayLike = 0.9,
        server_learning_rate: ArrayLike = 1.0,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        # The type says float, but Optax takes a traced number just as well.
        optim = optax.sgd(
            within("server_learning_rate", server_learning_rate, least=0),  # pyright: ignore
            momentum=within("momentum", momentum, least=0, below=1),  # pyright: ignore
        )
        self.server = OptaxServer(optim)
