"""FedAsync."""

import optax
from jaxtyping import ArrayLike

from .._aggregator import AbstractAggregator, UniformMean
from .._check import as_number, checked
from .._client import LocalSGD, Proximal
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .asynchronous import AbstractAsynchronous
from .one_pass import AbstractOnePass, Algorithm
from .staleness import AbstractStaleness, ConstantStaleness


class FedAsync(AbstractAsynchronous):
    r"""Asynchronous federated optimisation: every model that arrives is mixed into the
    server's at once.

    A client that began from the server's version $t - \tau$ runs SGD from $x_{t -
    \tau}$ on $f_i(\theta) + \frac{\mu}{2} \lVert \theta - x_{t - \tau} \rVert^2$, to
    $\theta_i$. When it arrives,

    $$x_{t+1} = (1 - \alpha_t) x_t + \alpha_t \theta_i, \qquad
    \alpha_t = \alpha\, s(\tau).$$

    That is a buffer of one: a round has one client. If it has more, as it may here, the
    server takes the mean of their steps $\alpha\, s(\tau_i)(\theta_i - x_t)$.
    $\tau$ counts the versions in between, 0 if there were none; the paper's Algorithm 1
    calls the first update after a download the epoch $t = \tau + 1$, which would make
    every staleness greater by one.

    See [`equifed.Asynchronous`][] for messages that are too stale, and for what is
    reported.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][]. The paper's
        clients run plain SGD.
    - `max_staleness`: how many old models are kept.
    - `alpha`: $\alpha$, in $(0, 1]$: how much of the server's model is replaced, if
        nothing is stale.
    - `weight`: $s$: [`equifed.ConstantStaleness`][] if not given,
        [`equifed.PolynomialStaleness`][] or [`equifed.HingeStaleness`][].
    - `mu`: $\mu \ge 0$, the paper's $\rho$. For losses that are not convex its theory
        wants one that makes the client's objective convex.
    - `aggregator`: [`equifed.UniformMean`][] if not given.

    ??? cite "Reference"

        [Asynchronous Federated Optimization](https://arxiv.org/abs/1903.03934),
        Algorithm 1

        ```bibtex
        @article{xie2019asynchronous,
            title={{A}synchronous {F}ederated {O}ptimization},
            author={Xie, Cong and Koyejo, Sanmi and Gupta, Indranil},
            journal={arXiv:1903.03934},
            year={2019},
        }
        ```
    """

    algorithm: AbstractOnePass
    max_staleness: int
    weight: AbstractStaleness
    change_from = "present"

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        max_staleness: int,
        alpha: ArrayLike,
        weight: AbstractStaleness | None = None,
        mu: ArrayLike = 0.0,
        aggregator: AbstractAggregator | None = None,
    ):
        alpha = as_number("alpha", alpha, least=0, strict=True, most=1)
        self.algorithm = Algorithm(
            LocalSGD(loss, client_optim, batching, Proximal(mu)),
            UniformMean() if aggregator is None else aggregator,
            OptaxServer(optax.sgd(alpha)),
        )
        self.max_staleness = max_staleness
        self.weight = ConstantStaleness() if weight is None else weight
