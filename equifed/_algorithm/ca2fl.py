"""CA2FL."""

from .._aggregator import AbstractAggregator
from .._check import checked
from .._optim import OptimLike
from .._types import Loss
from ..data import AbstractBatching
from .asynchronous import AbstractAsynchronous
from .fedvarp import FedVARP
from .one_pass import AbstractOnePass
from .staleness import AbstractStaleness, ConstantStaleness


class CA2FL(AbstractAsynchronous):
    r"""Cache-aided asynchronous federated learning: what clients sent last stands in
    for those that are not in the buffer.

    The server keeps each client's latest change $h_i$ (0 at first) and their mean over
    all $N$ clients, $h$. With a buffer $S$ of $M$ changes $\Delta_i = \theta_i - x_{t -
    \tau_i}$,

    $$x_{t+1} = x_t + \eta \Big( h + \frac1M \sum_{i \in S} (\Delta_i - h_i) \Big),
    \qquad h_i \leftarrow \Delta_i \text{ for } i \in S.$$

    It is [`equifed.FedVARP`][] of clients that train from old models, and kept as
    there: each $h_i$ is its client's state. The clients that come often (the fast ones)
    do not draw the model to theirs. The paper does not weigh by staleness.

    See [`equifed.Asynchronous`][] for messages that are too stale, and for what is
    reported.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][]. The paper's
        clients run plain SGD.
    - `max_staleness`: how many old models are kept.
    - `server_optim`: `optax.sgd(1.0)` if not given; its learning rate is $\eta$.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [Tackling the Data Heterogeneity in Asynchronous Federated Learning with Cached
        Update Calibration](https://openreview.net/forum?id=4aywmeb97I), Algorithm 2

        ```bibtex
        @inproceedings{wang2024tackling,
            title={{T}ackling the {D}ata {H}eterogeneity in {A}synchronous {F}ederated
                   {L}earning with {C}ached {U}pdate {C}alibration},
            author={Wang, Yujia and Cao, Yuanpu and Wu, Jingcheng and Chen, Ruoyu and
                    Chen, Jinghui},
            booktitle={ICLR},
            year={2024},
        }
        ```
    """

    algorithm: AbstractOnePass
    max_staleness: int
    weight: AbstractStaleness
    change_from = "old"

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        max_staleness: int,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.algorithm = FedVARP(
            loss,
            client_optim,
            batching,
            server_optim=server_optim,
            aggregator=aggregator,
        )
        self.max_staleness = max_staleness
        self.weight = ConstantStaleness()
