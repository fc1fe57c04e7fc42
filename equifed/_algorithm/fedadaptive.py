"""FedAdagrad, FedAdam and FedYogi: one algorithm with three second moments."""

import optax
from jaxtyping import ArrayLike

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import checked, within
from .._client import LocalSGD
from .._optim import Optim
from .._server import OptaxServer, server_adagrad, server_adam, server_yogi
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class FedAdagrad(AbstractOnePass):
    r"""FedAvg with Adagrad at the server.

    With $\overline\Delta$ the mean change of the clients' models, and $v_0 = \tau^2$:

    $$m \leftarrow \beta_1 m + (1 - \beta_1) \overline\Delta, \quad
    v \leftarrow v + \overline\Delta^2, \quad
    x \leftarrow x + \eta \frac{m}{\sqrt v + \tau}.$$

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `aggregator`: as in [`equifed.FedAvg`][].
    - `server_learning_rate`: $\eta$.
    - `b1`: $\beta_1$. The paper's experiments use 0 here.
    - `tau`: $\tau$, the degree of adaptivity.

    ??? cite "Reference"

        [Adaptive Federated Optimization](https://arxiv.org/abs/2003.00295),
        Algorithm 2

        ```bibtex
        @inproceedings{reddi2021adaptive,
            title={{A}daptive {F}ederated {O}ptimization},
            author={Reddi, Sashank and Charles, Zachary and Zaheer, Manzil and Garrett,
                    Zachary and Rush, Keith and Kone{\v{c}}n{\'y}, Jakub and Kumar,
                    Sanjiv and McMahan, H. Brendan},
            booktitle={ICLR},
            year={2021},
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
        client_optim: optax.GradientTransformation | optax.MultiSteps | Optim,
        batching: AbstractBatching,
        *,
        server_learning_rate: ArrayLike = 0.1,
        b1: ArrayLike = 0.0,
        tau: ArrayLike = 1e-3,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        rate = within("server_learning_rate", server_learning_rate, least=0)
        self.server = OptaxServer(server_adagrad(rate, b1=b1, tau=tau))


class FedAdam(AbstractOnePass):
    r"""FedAvg with Adam at the server, without bias correction.

    As [`equifed.FedAdagrad`][], with
    $v \leftarrow \beta_2 v + (1 - \beta_2) \overline\Delta^2$.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `aggregator`: as in [`equifed.FedAvg`][].
    - `server_learning_rate`: $\eta$.
    - `b1`, `b2`: $\beta_1$ and $\beta_2$.
    - `tau`: $\tau$, the degree of adaptivity.

    ??? cite "Reference"

        [Adaptive Federated Optimization](https://arxiv.org/abs/2003.00295),
        Algorithm 2
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: optax.GradientTransformation | optax.MultiSteps | Optim,
        batching: AbstractBatching,
        *,
        server_learning_rate: ArrayLike = 10**-2.5,
        b1: ArrayLike = 0.9,
        b2: ArrayLike = 0.99,
        tau: ArrayLike = 1e-3,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        rate = within("server_learning_rate", server_learning_rate, least=0)
        self.server = OptaxServer(server_adam(rate, b1=b1, b2=b2, tau=tau))


class FedYogi(AbstractOnePass):
    r"""FedAvg with Yogi at the server.

    As [`equifed.FedAdagrad`][], with
    $v \leftarrow v - (1 - \beta_2) \overline\Delta^2 \,\mathrm{sign}(v -
    \overline\Delta^2)$.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `aggregator`: as in [`equifed.FedAvg`][].
    - `server_learning_rate`: $\eta$.
    - `b1`, `b2`: $\beta_1$ and $\beta_2$.
    - `tau`: $\tau$, the degree of adaptivity.

    ??? cite "Reference"

        [Adaptive Federated Optimization](https://arxiv.org/abs/2003.00295),
        Algorithm 2
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: optax.GradientTransformation | optax.MultiSteps | Optim,
        batching: AbstractBatching,
        *,
        server_learning_rate: ArrayLike = 10**-2.5,
        b1: ArrayLike = 0.9,
        b2: ArrayLike = 0.99,
        tau: ArrayLike = 1e-3,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        rate = within("server_learning_rate", server_learning_rate, least=0)
        self.server = OptaxServer(server_yogi(rate, b1=b1, b2=b2, tau=tau))
