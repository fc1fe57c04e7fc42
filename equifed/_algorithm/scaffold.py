"""SCAFFOLD."""

import optax

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked
from .._client import ControlVariate, LocalSGD
from .._optim import Optim
from .._server import OptaxServer, ScaffoldServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class Scaffold(AbstractOnePass):
    r"""Stochastic controlled averaging: client drift is measured and taken out.

    Client $i$ steps with $g_i(y) - c_i + c$ from the server's $x$ to $y_i$, and renews
    its control variate to $c_i^+$: by option I, its gradient at $x$; by option II,
    $c_i - c + \frac{1}{K \eta} (x - y_i)$. Over the participants $S$ of $N$ clients,

    $$x \leftarrow x + \frac{\eta_g}{|S|} \sum_{i \in S} (y_i - x), \qquad
    c \leftarrow c + \frac1N \sum_{i \in S} (c_i^+ - c_i).$$

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][]. The paper's
        clients run plain SGD.
    - `option`: 1 or 2.
    - `server_optim`: `optax.sgd(1.0)` if not given; its learning rate is $\eta_g$.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [SCAFFOLD: Stochastic Controlled Averaging for Federated
        Learning](https://arxiv.org/abs/1910.06378)

        ```bibtex
        @inproceedings{karimireddy2020scaffold,
            title={{SCAFFOLD}: {S}tochastic {C}ontrolled {A}veraging for {F}ederated
                   {L}earning},
            author={Karimireddy, Sai Praneeth and Kale, Satyen and Mohri, Mehryar and
                    Reddi, Sashank and Stich, Sebastian and Suresh, Ananda Theertha},
            booktitle={ICML},
            year={2020},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: ScaffoldServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: optax.GradientTransformation | optax.MultiSteps | Optim,
        batching: AbstractBatching,
        *,
        option: int = 2,
        server_optim: optax.GradientTransformation
        | optax.MultiSteps
        | Optim
        | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching, ControlVariate(option))
        self.aggregator = UniformMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = ScaffoldServer(OptaxServer(server_optim))
