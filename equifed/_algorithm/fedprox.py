"""FedProx."""

import optax
from jaxtyping import ArrayLike

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import checked
from .._client import LocalSGD, Proximal
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class FedProx(AbstractOnePass):
    r"""FedAvg whose clients are pulled towards the server's model.

    Client $i$ minimises $F_i(\theta) + \frac\mu2 \lVert \theta - x \rVert^2$, where
    $x$ is the model that it was sent.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `aggregator`: as in
        [`equifed.FedAvg`][].
    - `mu`: $\mu$. At 0 this is FedAvg.

    ??? cite "Reference"

        [Federated Optimization in Heterogeneous
        Networks](https://arxiv.org/abs/1812.06127)

        ```bibtex
        @inproceedings{li2020federated,
            title={{F}ederated {O}ptimization in {H}eterogeneous {N}etworks},
            author={Li, Tian and Sahu, Anit Kumar and Zaheer, Manzil and Sanjabi, Maziar
                    and Talwalkar, Ameet and Smith, Virginia},
            booktitle={MLSys},
            year={2020},
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
        mu: ArrayLike,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching, Proximal(mu))
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        self.server = OptaxServer(
            optax.sgd(1.0) if server_optim is None else server_optim
        )
