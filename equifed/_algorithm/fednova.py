"""FedNova."""

import optax

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import checked
from .._client import AbstractCorrection, LocalSGD, NoCorrection, Normalized
from .._optim import Optim
from .._server import NovaServer, OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class FedNova(AbstractOnePass):
    r"""FedAvg without the bias of unequal numbers of local steps.

    Client $i$'s change is a weighted sum of its gradients, $\Delta_i = -\eta \sum_k
    a_{i,k} g_{i,k}$. The server averages the normalised changes, and takes a common
    length:

    $$x \leftarrow x + \tau_\text{eff} \sum_i p_i \frac{\Delta_i}{\lVert a_i \rVert_1},
    \qquad \tau_\text{eff} = \sum_i p_i \lVert a_i \rVert_1, \qquad
    p_i = \frac{n_i}{\sum_j n_j}.$$

    $\lVert a_i \rVert_1$ is the number of steps for SGD, and follows momentum,
    schedules and a proximal term by itself.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `aggregator`: as in
        [`equifed.FedAvg`][].
    - `correction`: `Proximal(mu)` for the paper's proximal variant.

    ??? cite "Reference"

        [Tackling the Objective Inconsistency Problem in Heterogeneous Federated
        Optimization](https://arxiv.org/abs/2007.07481)

        ```bibtex
        @inproceedings{wang2020tackling,
            title={{T}ackling the {O}bjective {I}nconsistency {P}roblem in
                   {H}eterogeneous {F}ederated {O}ptimization},
            author={Wang, Jianyu and Liu, Qinghua and Liang, Hao and Joshi, Gauri and
                    Poor, H. Vincent},
            booktitle={NeurIPS},
            year={2020},
        }
        ```
    """

    client: Normalized
    aggregator: AbstractAggregator
    server: NovaServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: optax.GradientTransformation | optax.MultiSteps | Optim,
        batching: AbstractBatching,
        *,
        correction: AbstractCorrection | None = None,
        server_optim: optax.GradientTransformation
        | optax.MultiSteps
        | Optim
        | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        correction = NoCorrection() if correction is None else correction
        self.client = Normalized(LocalSGD(loss, client_optim, batching, correction))
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = NovaServer(OptaxServer(server_optim))
