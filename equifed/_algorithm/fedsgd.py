"""FedSGD."""

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import checked
from .._client import MeanGradient
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class FedSGD(AbstractOnePass):
    r"""One gradient from every client, one step at the server.

    $$x \leftarrow x - \eta \sum_i \frac{n_i}{\sum_j n_j} \nabla F_i(x).$$

    **Arguments:**

    - `loss`: the loss of one example, `loss(model, example, key)`.
    - `server_optim`: the server's Optax optimiser; `optax.sgd(eta)` for the above.
    - `batching`: `Epochs(1, batch_size=...)` for the gradient over all examples, where
        the batch size only says how many are taken at a time; `Steps(k, ...)` for
        mini-batch SGD on `k` batches of each client.
    - `aggregator`: [`equifed.WeightedMean`][] if not given.

    ??? cite "Reference"

        [Communication-Efficient Learning of Deep Networks from Decentralized
        Data](https://arxiv.org/abs/1602.05629)
    """

    client: MeanGradient
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        server_optim: OptimLike,
        batching: AbstractBatching,
        *,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = MeanGradient(loss, batching)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        self.server = OptaxServer(server_optim)
