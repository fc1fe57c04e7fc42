"""MoFedSAM: FedCM's momentum on FedSAM's gradient."""

from jaxtyping import ArrayLike

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked
from .._client import LocalSGD
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .fedcm import ClientMomentum, MomentumServer
from .fedsam import SharpnessAware
from .one_pass import AbstractOnePass


class MoFedSAM(AbstractOnePass):
    r"""FedSAM whose clients are pulled along by the mean step of the last round.

    As [`equifed.FedCM`][], with the gradient of [`equifed.FedSAM`][]: each step is

    $$v = \alpha\, \nabla F_i\!\left(y + \rho \frac{\nabla F_i(y)}{\lVert \nabla F_i(y)
    \rVert}\right) + (1 - \alpha) \Delta.$$

    It costs two gradients a step. The metrics are those of the loss at $y$.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `alpha`, `aggregator`: as in
        [`equifed.FedCM`][].
    - `rho`: $\rho \ge 0$, the radius. At 0 this is FedCM.

    ??? cite "Reference"

        [Generalized Federated Learning via Sharpness Aware
        Minimization](https://arxiv.org/abs/2206.02618)
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: MomentumServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        server_optim: OptimLike,
        alpha: ArrayLike = 0.1,
        rho: ArrayLike = 0.05,
        aggregator: AbstractAggregator | None = None,
    ):
        correction = ClientMomentum(alpha, SharpnessAware(rho))
        self.client = LocalSGD(loss, client_optim, batching, correction)
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.server = MomentumServer(OptaxServer(server_optim))
