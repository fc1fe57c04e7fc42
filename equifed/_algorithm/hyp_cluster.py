"""HypCluster."""

import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import as_number, check_count, checked
from .._client import LocalSGD
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .clusters import AbstractClusters, PicksBest


class HypCluster(AbstractClusters):
    r"""Hypothesis-based clustering: [`equifed.IFCA`][] with means weighted by numbers
    of examples, and an optimiser of each model's own at the server.

    Client $i$ with $n_i$ examples measures its loss $F_i$ under each of the $k$
    models, and runs local SGD from the best, $j_i = \arg\min_j F_i(\theta_j)$, which
    changes it by $\Delta_i$. Each model steps along

    $$\overline\Delta_j = \frac{\sum_i n_i [j_i = j]\, \Delta_i}{\sum_i n_i
    [j_i = j]}.$$

    A model that nobody picked stays as it is, and so does its optimiser. The metrics
    gain `clusters`: how many clients picked each.

    There is no one model to evaluate: `algorithm.models(state)` gives them all.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].
    - `server_optim`: the optimiser of each model at the server; the paper's is
        `optax.sgd(1.0)`, which is it if not given.
    - `aggregator`: a mean; [`equifed.WeightedMean`][] if not given, as in the paper.
    - `num_clusters`: $k$, the number of models.
    - `spread`: the models begin around the one that `init` is given, with independent
        normal noise of this standard deviation on every number that is trained (give
        `init` its `roles=` for what is not to differ). `init` needs a key.

    ??? cite "Reference"

        [Three Approaches for Personalization with Applications to Federated
        Learning](https://arxiv.org/abs/2002.10619)

        ```bibtex
        @article{mansour2020three,
            title={{T}hree {A}pproaches for {P}ersonalization with {A}pplications to
                   {F}ederated {L}earning},
            author={Mansour, Yishay and Mohri, Mehryar and Ro, Jae and Suresh, Ananda
                    Theertha},
            journal={arXiv:2002.10619},
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
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = PicksBest(LocalSGD(loss, client_optim, batching))
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        self.server = OptaxServer(
            optax.sgd(1.0) if server_optim is None else server_optim
        )
        self.num_clusters = check_count("num_clusters", num_clusters)
        self.spread = as_number("spread", spread, least=0)
