"""IFCA."""

import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import as_number, check_count, checked
from .._client import LocalSGD
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .clusters import AbstractClusters, PicksBest


class IFCA(AbstractClusters):
    r"""The iterative federated clustering algorithm, with model averaging.

    The server keeps $k$ models $\theta_1, \dots, \theta_k$. Client $i$ measures its
    loss $F_i$ under each of them, runs local SGD from the best, $j_i = \arg\min_j
    F_i(\theta_j)$, and each model becomes the mean of those that came of it:

    $$\theta_j \leftarrow \theta_j + \frac{\sum_i [j_i = j]\, \Delta_i}{\sum_i
    [j_i = j]}.$$

    A model that nobody picked stays as it is. The metrics gain `clusters`: how many
    clients picked each.

    There is no one model to evaluate: `algorithm.models(state)` gives them all.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].
    - `num_clusters`: $k$, the number of models.
    - `spread`: the models begin around the one that `init` is given, with independent
        normal noise of this standard deviation on every number that is trained (give
        `init` its `roles=` for what is not to differ). `init` needs a key.
    - `aggregator`: a mean; [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [An Efficient Framework for Clustered Federated
        Learning](https://arxiv.org/abs/2006.04088)

        ```bibtex
        @inproceedings{ghosh2020efficient,
            title={{A}n {E}fficient {F}ramework for {C}lustered {F}ederated {L}earning},
            author={Ghosh, Avishek and Chung, Jichan and Yin, Dong and Ramchandran,
                    Kannan},
            booktitle={NeurIPS},
            year={2020},
        }
        ```
    """

    client: PicksBest
    aggregator: AbstractAggregator
    server: OptaxServer
    num_clusters: int
    spread: Float[Array, ""]

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        num_clusters: int,
        spread: ArrayLike = 0.1,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = PicksBest(LocalSGD(loss, client_optim, batching))
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.server = OptaxServer(optax.sgd(1.0))
        self.num_clusters = check_count("num_clusters", num_clusters)
        self.spread = as_number("spread", spread, least=0)
