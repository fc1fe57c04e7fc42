"""FedSAM: sharpness-aware minimisation as the clients' correction."""

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import checked, number
from .._client import AbstractMemoryless, LocalSGD
from .._optim import OptimLike
from .._server import OptaxServer
from .._tree import safe_divide, tree_add_scaled, tree_norm
from .._types import Loss
from .._wire import CHANGE
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class SharpnessAware(AbstractMemoryless):
    r"""The gradient of the same batch where the loss is highest nearby:
    $\nabla f\big(\theta + \rho\, g / \lVert g \rVert\big)$, with $g = \nabla f(\theta)$
    and the norm that of all leaves together (Foret et al., 2021, arXiv 2010.01412).

    It takes two gradients a step. Where $g$ is 0, it is used as it is.
    """

    sends = (CHANGE,)
    rho: Float[Array, ""] = eqx.field(converter=number("rho", least=0))

    def begin(self, params, shared, state, gradient):
        return None

    def correct(self, grads, params, carry, gradient):
        scale = safe_divide(self.rho.astype(jnp.result_type(float)), tree_norm(grads))
        return gradient(tree_add_scaled(params, scale, grads)), carry


class FedSAM(AbstractOnePass):
    r"""FedAvg whose clients look for flat minima.

    At each local step client $i$ climbs from $\theta$ to the worst point nearby, and
    descends along the gradient of the same batch there:

    $$\theta \leftarrow \theta - \eta\, \nabla F_i\!\left(\theta + \rho
    \frac{\nabla F_i(\theta)}{\lVert \nabla F_i(\theta) \rVert}\right).$$

    It costs two gradients a step. The metrics are those of the loss at $\theta$.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `aggregator`: as in
        [`equifed.FedAvg`][].
    - `rho`: $\rho \ge 0$, the radius. At 0 this is FedAvg.

    ??? cite "Reference"

        [Generalized Federated Learning via Sharpness Aware
        Minimization](https://arxiv.org/abs/2206.02618)

        ```bibtex
        @inproceedings{qu2022generalized,
            title={{G}eneralized {F}ederated {L}earning via {S}harpness {A}ware
                   {M}inimization},
            author={Qu, Zhe and Li, Xingyu and Duan, Rui and Liu, Yao and Tang, Bo and
                    Lu, Zhuo},
            booktitle={ICML},
            year={2022},
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
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        rho: ArrayLike = 0.05,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching, SharpnessAware(rho))
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)
