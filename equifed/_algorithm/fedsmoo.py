"""FedSMOO: one model that is consistent, and flat in the same directions for all."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked, number
from .._client import AbstractCorrection, LocalSGD
from .._optim import OptimLike
from .._server import AbstractServer
from .._tree import (
    safe_divide,
    tree_add,
    tree_add_scaled,
    tree_cast_like,
    tree_norm,
    tree_scale,
    tree_sub,
    tree_zeros_like,
)
from .._types import Loss, Params
from .._wire import AbstractPayload
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class _Payload(AbstractPayload):
    """The change of the params, and what the perturbations are to agree on."""

    additive: ClassVar[bool] = True
    delta: Params
    perturbation: Params


def _of_length(rho: Float[Array, ""], x: Params) -> Params:
    """`x` of this length; 0 if it is 0."""
    length = tree_norm(x)
    scale = safe_divide(rho.astype(length.dtype), length)
    return tree_cast_like(tree_scale(scale, x), x)


class _BothDuals(AbstractCorrection):
    r"""$\nabla F_i(\theta + \hat s) + \alpha (\theta - x + h_i)$, where $\hat s$ is of
    length $\rho$ along $g - \mu_i - s$."""

    alpha: Float[Array, ""] = eqx.field(converter=number("alpha", least=0))

    def init(self, params):
        return tree_zeros_like(params), tree_zeros_like(params)

    def payload(self, params):
        return _Payload(params, params)

    def begin(self, params, shared, state, gradient):
        drift, dual = state
        centre = tree_sub(params, drift)
        return centre, shared, dual, tree_zeros_like(params), drift

    def correct(self, grads, params, carry, gradient):
        centre, (rho, agreed), dual, _, drift = carry
        step = _of_length(rho, tree_sub(tree_sub(grads, dual), agreed))
        dual = tree_add(dual, tree_sub(step, agreed))
        there = gradient(tree_add(params, step))
        used = tree_add_scaled(there, self.alpha, tree_sub(params, centre))
        return used, (centre, (rho, agreed), dual, step, drift)

    def end(self, delta, num_steps, carry):
        _, _, dual, step, drift = carry
        return _Payload(delta, tree_sub(dual, step)), (tree_add(drift, delta), dual)


class _SmooState(eqx.Module):
    """The mean of all clients' drifts, the agreed perturbation, and the population."""

    drift: Params
    agreed: Params
    num_clients: Float[Array, ""]


class _SmooServer(AbstractServer):
    r"""$h \leftarrow h + \frac{|S|}{N} \overline\Delta$, then $x \leftarrow x +
    \overline\Delta + h$, and $s$ is of length $\rho$ along $\overline{\mu - \hat s}$.
    It broadcasts $\rho$ and $s$."""

    rho: Float[Array, ""] = eqx.field(converter=number("rho", least=0))

    def init(self, params, *, num_clients):
        number = jnp.asarray(num_clients, jnp.result_type(float))
        return _SmooState(tree_zeros_like(params), tree_zeros_like(params), number)

    def broadcast(self, params, state):
        return self.rho, state.agreed

    def round(self, params, aggregate, state, *, key):
        payload, number = aggregate.payload, state.num_clients
        drift = tree_add_scaled(state.drift, aggregate.count / number, payload.delta)
        params = tree_add(tree_add(params, payload.delta), drift)
        agreed = _of_length(self.rho, payload.perturbation)
        agreed = tree_cast_like(agreed, state.agreed)
        return params, _SmooState(drift, agreed, number)


class FedSMOO(AbstractOnePass):
    r"""Dynamic regularisation, of the models and of the perturbations of
    sharpness-aware minimisation.

    Client $i$ keeps two duals, its drift $h_i$ and $\mu_i$ (0 at first). From the
    server's $x$, with the agreed perturbation $s$ (0 at first), each local step is

    $$\hat s = \rho \frac{g - \mu_i - s}{\lVert g - \mu_i - s \rVert}, \quad g = \nabla
    F_i(\theta), \qquad \mu_i \leftarrow \mu_i + \hat s - s,$$

    $$\theta \leftarrow \theta - \eta \big(\nabla F_i(\theta + \hat s) + \alpha (\theta
    - x + h_i)\big).$$

    It ends in $\theta_i$, renews $h_i \leftarrow h_i + \theta_i - x$, and sends
    $\theta_i - x$ and $\mu_i - \hat s$ of its last step. Over the participants $S$ of
    $N$ clients,

    $$h \leftarrow h + \frac1N \sum_{i \in S} (\theta_i - x), \qquad x \leftarrow
    \frac1{|S|} \sum_{i \in S} \theta_i + h, \qquad s = \rho \frac{\sum_{i \in S}
    (\mu_i - \hat s_i)}{\lVert \sum_{i \in S} (\mu_i - \hat s_i) \rVert}.$$

    $\alpha$ is the paper's $1 / \beta$, and $-\alpha h_i$ its $\lambda_i$. The authors'
    code leaves $\hat s_i$ out of the last sum, as it is short. A step takes two
    gradients. With `rho=0` this is [`equifed.FedDyn`][]. The metrics are those of the
    loss at $\theta$.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][]. The paper's
        clients run plain SGD.
    - `alpha`: $\alpha \ge 0$, the strength of the regularisation.
    - `rho`: $\rho \ge 0$, the length of the perturbations.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [Dynamic Regularized Sharpness Aware Minimization in Federated Learning:
        Approaching Global Consistency and Smooth
        Landscape](https://arxiv.org/abs/2305.11584)

        ```bibtex
        @inproceedings{sun2023dynamic,
            title={{D}ynamic {R}egularized {S}harpness {A}ware {M}inimization in
                   {F}ederated {L}earning: {A}pproaching {G}lobal {C}onsistency and
                   {S}mooth {L}andscape},
            author={Sun, Yan and Shen, Li and Chen, Shixiang and Ding, Liang and Tao,
                    Dacheng},
            booktitle={ICML},
            year={2023},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: _SmooServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        alpha: ArrayLike,
        rho: ArrayLike,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching, _BothDuals(alpha))
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.server = _SmooServer(rho)
