"""FedPer: personal layers on a shared base."""

import optax

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import checked
from .._client import LocalSGD
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class FedPer(AbstractOnePass):
    r"""Federated learning with personalisation layers.

    A model is a shared base $u$ and personal layers $v_i$, which each client keeps.
    Client $i$ runs local SGD on both at once, from $(u, v_i)$ to $(u_i, v_i^+)$, and

    $$u \leftarrow u + \sum_i \frac{n_i}{\sum_j n_j} (u_i - u), \qquad
    v_i \leftarrow v_i^+.$$

    A client begins with the personal layers of the model that `init` was given.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `aggregator`: as in
        [`equifed.FedAvg`][].

    Which layers are personal is said by [`equifed.roles`][]; the paper takes the last
    ones of a deep network.

    !!! example

        ```python
        roles = eqf.roles(model, personal=lambda m: m.layers[-1])
        eqf.train(eqf.FedPer(loss, optim, batching), model, loader, ..., roles=roles)
        ```

    ??? cite "Reference"

        [Federated Learning with Personalization Layers](https://arxiv.org/abs/1912.00818)

        ```bibtex
        @article{arivazhagan2019federated,
            title={{F}ederated {L}earning with {P}ersonalization {L}ayers},
            author={Arivazhagan, Manoj Ghuhan and Aggarwal, Vinay and Singh, Aaditya
                    Kumar and Choudhary, Sunav},
            journal={arXiv:1912.00818},
            year={2019},
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
