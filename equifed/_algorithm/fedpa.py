"""FedPA."""

import optax
from jaxtyping import ArrayLike

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import checked
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from ..posterior import (
    AbstractMomentEstimator,
    AbstractPosteriorSampler,
    BurnInServer,
    GaussianMoments,
    PosteriorClient,
    PosteriorProduct,
    Shrinkage,
)
from .one_pass import AbstractOnePass


class FedPA(AbstractOnePass):
    r"""Federated learning via posterior averaging.

    If each client's posterior is a Gaussian $N(\mu_i, \Sigma_i)$, the mode of their
    product is the minimum of $\sum_i \frac{w_i}{2} (x - \mu_i)^\top \Sigma_i^{-1} (x -
    \mu_i)$. So each client draws samples of its posterior, estimates $\mu_i$ and
    $\Sigma_i$ from them, and sends a step along that gradient; the server does what it
    does in FedAvg:

    $$\Delta_i = \hat\Sigma_i^{-1} (\hat\mu_i - x), \qquad
    x \leftarrow x + \eta \sum_i \frac{n_i}{\sum_j n_j} \Delta_i.$$

    FedAvg is the case $\hat\Sigma_i = I$, and so drifts to where the means of the
    posteriors agree rather than to the minimum of the loss.

    **Arguments:**

    - `loss`: the loss of one example, `loss(model, example, key)`.
    - `sampler`: how clients draw samples; [`equifed.posterior.IASG`][] on real tasks,
        whose `burnin` is the number of burn-in epochs within a round.
    - `batching`: how a client goes through its examples; with
        [`equifed.posterior.IASG`][], `Epochs` make one sample an epoch.
    - `rho`: the shrinkage of the covariance, see [`equifed.posterior.Shrinkage`][];
        0.01 if neither it nor an estimator is given.
    - `estimator`: in place of `rho`, any way of turning samples into a change of the
        params.
    - `start_round`: the rounds before it are plain FedAvg on the same steps, with
        [`equifed.posterior.IASG`][] of one chain; see [`equifed.posterior.Samples`][]
        for other samplers. From it on messages are longer, by up to $1 + (l - 1) \rho$
        for $l$ samples: the server's learning rate must suit them.
    - `server_optim`: the server's Optax optimiser on minus the mean change;
        `optax.sgd(1.0)` if not given.
    - `aggregator`: [`equifed.WeightedMean`][] if not given.

    !!! example

        ```python
        eqf.FedPA(
            loss,
            eqf.posterior.IASG(optax.sgd(0.02, momentum=0.9), burnin=1),
            eqf.data.Epochs(5, batch_size=20),
            rho=0.01,
            start_round=400,
            server_optim=optax.sgd(0.5, momentum=0.9),
        )
        ```

    ??? cite "Reference"

        [Federated Learning via Posterior Averaging: A New Perspective and Practical
        Algorithms](https://arxiv.org/abs/2010.05273)

        ```bibtex
        @inproceedings{alshedivat2021federated,
            title={{F}ederated {L}earning via {P}osterior {A}veraging: {A} {N}ew
                   {P}erspective and {P}ractical {A}lgorithms},
            author={Al-Shedivat, Maruan and Gillenwater, Jennifer and Xing, Eric and
                    Rostamizadeh, Afshin},
            booktitle={ICLR},
            year={2021},
        }
        ```
    """

    client: PosteriorClient
    aggregator: AbstractAggregator
    server: BurnInServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        sampler: AbstractPosteriorSampler,
        batching: AbstractBatching,
        *,
        rho: ArrayLike | None = None,
        estimator: AbstractMomentEstimator | None = None,
        start_round: int = 0,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        if rho is not None and estimator is not None:
            raise ValueError(
                "Give `rho`, which means `estimator=Shrinkage(rho)`, or `estimator`; "
                "got both."
            )
        if estimator is None:
            estimator = Shrinkage(0.01 if rho is None else rho)
        gaussian = isinstance(estimator, GaussianMoments)
        if gaussian or isinstance(aggregator, PosteriorProduct):
            raise TypeError(
                "FedPA's clients send a change of the params, not a Gaussian. To "
                "multiply Gaussians give `PosteriorClient(..., GaussianMoments(rho))` "
                "and `PosteriorProduct()` to `equifed.Algorithm`."
            )
        self.client = PosteriorClient(loss, sampler, batching, estimator)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = BurnInServer(OptaxServer(server_optim), start_round)
