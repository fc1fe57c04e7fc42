"""FedDyn."""

import optax
from jaxtyping import ArrayLike

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked
from .._client import DynamicRegularizer, LocalSGD
from .._optim import Optim
from .._server import DynServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class FedDyn(AbstractOnePass):
    r"""Dynamic regularisation: the clients' optima are made to agree.

    Client $i$ minimises $F_i(\theta) - \langle h_i, \theta \rangle + \frac\alpha2
    \lVert \theta - x \rVert^2$ from the server's $x$ to $\theta_i$, and sets $h_i
    \leftarrow h_i - \alpha (\theta_i - x)$. Over the participants $S$ of $N$ clients,

    $$h \leftarrow h - \frac\alpha N \sum_{i \in S} (\theta_i - x), \qquad
    x \leftarrow \frac{1}{|S|} \sum_{i \in S} \theta_i - \frac1\alpha h.$$

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].
    - `alpha`: $\alpha > 0$.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [Federated Learning Based on Dynamic
        Regularization](https://arxiv.org/abs/2111.04263)

        ```bibtex
        @inproceedings{acar2021federated,
            title={{F}ederated {L}earning {B}ased on {D}ynamic {R}egularization},
            author={Acar, Durmus Alp Emre and Zhao, Yue and Matas, Ramon and Mattina,
                    Matthew and Whatmough, Paul and Saligrama, Venkatesh},
            booktitle={ICLR},
            year={2021},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: DynServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: optax.GradientTransformation | optax.MultiSteps | Optim,
        batching: AbstractBatching,
        *,
        alpha: ArrayLike,
        aggregator: AbstractAggregator | None = None,
    ):
        correction = DynamicRegularizer(alpha)
        self.client = LocalSGD(loss, client_optim, batching, correction)
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.server = DynServer(alpha)
