"""FedBN: each client keeps its normalisation."""

import optax

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked
from .._client import LocalSGD
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class FedBN(AbstractOnePass):
    r"""FedAvg in which each client keeps its normalisation layers.

    Where the inputs of clients differ in kind (scanners, cameras, wards), so do the
    statistics of their features. So all of a normalisation layer stays with the client,
    its scale and shift as well as what it has measured; all else is averaged,
    unweighted, as in the paper's algorithm.

    Which leaves these are, [`equifed.norms`][] finds:

    ```python
    roles = eqf.roles(model, personal=eqf.norms)
    ```

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`: as in [`equifed.FedAvg`][].
    - `aggregator`: [`equifed.UniformMean`][] if not given.

    ??? cite "Reference"

        [FedBN: Federated Learning on Non-IID Features via Local Batch
        Normalization](https://arxiv.org/abs/2102.07623)

        ```bibtex
        @inproceedings{li2021fedbn,
            title={{FedBN}: {F}ederated {L}earning on {N}on-{IID} {F}eatures via {L}ocal
                   {B}atch {N}ormalization},
            author={Li, Xiaoxiao and Jiang, Meirui and Zhang, Xiaofei and Kamp, Michael
                    and Dou, Qi},
            booktitle={ICLR},
            year={2021},
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
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.server = OptaxServer(
            optax.sgd(1.0) if server_optim is None else server_optim
        )
