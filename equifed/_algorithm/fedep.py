"""FedEP."""

from jaxtyping import ArrayLike

from .._aggregator import UniformMean
from .._check import checked
from .._optim import OptimLike
from .._types import Loss
from ..data import AbstractBatching
from ..posterior import EPClient, EPServer
from ..posterior.laplace import Curvature
from .one_pass import AbstractOnePass


class FedEP(AbstractOnePass):
    r"""Federated learning by expectation propagation, with diagonal Gaussians.

    The global posterior is a product $q(\theta) = p(\theta) \prod_i q_i(\theta)$ of a
    prior and one Gaussian factor for each client, which the client keeps between
    rounds. In a round each participant fits its factor anew, in the context of all
    others' (see [`equifed.posterior.EPClient`][]), and the server multiplies $q$ by the
    changes. At a fixed point the mean of $q$ is the minimum of $\sum_i n_i f_i - \log
    p$, however many local steps are taken. In the first round the factors are Laplace
    approximations made apart: federated Laplace.

    The state of each client is twice as large as the model.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][]. See
        [`equifed.posterior.EPClient`][] for the learning rate.
    - `prior_precision`: of the Gaussian prior around the initial model.
    - `damping`: the fraction of each change that is made, at most 1. Where the loss is
        not convex, or the curvature is an estimate, less is safer.
    - `curvature`: `"fisher"` or `"hessian"`, as in [`equifed.posterior.Laplace`][]. Far
        from the optimum, where errors are large, `"fisher"` is far above the true
        curvature, and training with a `damping` of 1 may swing further and further:
        `"hessian"`, or a smaller `damping`, then helps.

    There is no choice of an aggregator: clients keep their factors, and $q$ is their
    product only if all changes are added up as they are.

    ??? cite "Reference"

        [Federated Learning as Variational Inference: A Scalable Expectation
        Propagation Approach](https://arxiv.org/abs/2302.04228)

        ```bibtex
        @inproceedings{guo2023federated,
            title={{F}ederated {L}earning as {V}ariational {I}nference: {A} {S}calable
                   {E}xpectation {P}ropagation {A}pproach},
            author={Guo, Han and Greengard, Philip and Wang, Hongyi and Gelman, Andrew
                    and Kim, Yoon and Xing, Eric P.},
            booktitle={ICLR},
            year={2023},
        }
        ```
    """

    client: EPClient
    aggregator: UniformMean
    server: EPServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        prior_precision: ArrayLike = 1.0,
        damping: ArrayLike = 1.0,
        curvature: Curvature = "fisher",
    ):
        self.client = EPClient(
            loss, client_optim, batching, damping=damping, curvature=curvature
        )
        # Its count turns the mean into a sum again.
        self.aggregator = UniformMean()
        self.server = EPServer(prior_precision)
