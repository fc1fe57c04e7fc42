"""FedLESAM: sharpness along the way that the server's model has come."""

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked, number
from .._client import AbstractCorrection, LocalSGD
from .._optim import OptimLike
from .._server import OptaxServer
from .._tree import (
    safe_divide,
    tree_add,
    tree_cast_like,
    tree_norm,
    tree_scale,
    tree_sub,
    tree_where,
)
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class _BackAlongTheWay(AbstractCorrection):
    r"""The gradient at $\theta + \rho\, d / \lVert d \rVert$, with $d$ from the model
    received now to the one that the client received last."""

    rho: Float[Array, ""] = eqx.field(converter=number("rho", least=0))

    def init(self, params):
        return params

    def payload(self, params):
        return params

    def begin(self, params, shared, state, gradient):
        way = tree_sub(state, params)
        scale = safe_divide(self.rho.astype(jnp.result_type(float)), tree_norm(way))
        return tree_cast_like(tree_scale(scale, way), params), params, state

    def correct(self, grads, params, carry, gradient):
        perturbation, *_ = carry
        return gradient(tree_add(params, perturbation)), carry

    def end(self, delta, num_steps, carry):
        _, received, last = carry
        return delta, tree_where(num_steps > 0, received, last)


class FedLESAM(AbstractOnePass):
    r"""FedSAM whose uphill direction costs no gradient: it is looked for in how the
    server's model has moved.

    With the server's model $x$ and the one that client $i$ received the last time,
    $x_i$ (the first of all, before it took part), each local step is

    $$\theta \leftarrow \theta - \eta\, \nabla F_i\!\left(\theta + \rho \frac{x_i -
    x}{\lVert x_i - x \rVert}\right),$$

    with the norm of all leaves together, as in the paper. (The authors' program divides
    by the sum of the leaves' norms, which is more: its steps uphill are shorter.) Where
    $x_i = x$ nothing is added. The metrics are those of the loss at $\theta$, which is
    computed without its gradient.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`: as in [`equifed.FedAvg`][].
    - `rho`: $\rho \ge 0$, the radius. At 0 this is FedAvg.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [Locally Estimated Global Perturbations are Better than Local Perturbations for
        Federated Sharpness-aware Minimization](https://arxiv.org/abs/2405.18890)

        ```bibtex
        @inproceedings{fan2024locally,
            title={{L}ocally {E}stimated {G}lobal {P}erturbations are {B}etter than
                   {L}ocal {P}erturbations for {F}ederated {S}harpness-aware
                   {M}inimization},
            author={Fan, Ziqing and Hu, Shengchao and Yao, Jiangchao and Niu, Gang and
                    Zhang, Ya and Sugiyama, Masashi and Wang, Yanfeng},
            booktitle={ICML},
            year={2024},
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
        rho: ArrayLike,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching, _BackAlongTheWay(rho))
        self.aggregator = UniformMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)
