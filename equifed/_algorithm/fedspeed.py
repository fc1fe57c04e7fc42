"""FedSpeed: a proximal pull whose bias is corrected, and a step uphill first."""

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
    tree_add,
    tree_add_scaled,
    tree_cast_like,
    tree_scale,
    tree_sub,
    tree_zeros_like,
)
from .._types import Loss
from ..data import AbstractBatching
from .fedsam import SharpnessAware
from .one_pass import AbstractOnePass


class _ProxCorrection(AbstractCorrection):
    r"""$(1 - \alpha) g + \alpha g^+ - \hat g_i + \frac1\lambda (\theta - x)$, where
    $g^+$ is the gradient a step uphill."""

    lam: Float[Array, ""] = eqx.field(converter=number("lam", least=0, strict=True))
    alpha: Float[Array, ""] = eqx.field(converter=number("alpha", least=0, most=1))
    uphill: SharpnessAware

    def init(self, params):
        return tree_zeros_like(params)

    def payload(self, params):
        return params

    def begin(self, params, shared, state, gradient):
        return params, state

    def correct(self, grads, params, carry, gradient):
        start, last = carry
        there, _ = self.uphill.correct(grads, params, None, gradient)
        mixed = tree_add_scaled(tree_scale(1 - self.alpha, grads), self.alpha, there)
        pull = tree_scale(1 / self.lam, tree_sub(params, start))
        return tree_add(tree_sub(mixed, last), pull), carry

    def end(self, delta, num_steps, carry):
        _, last = carry
        new = tree_cast_like(tree_add_scaled(last, -1 / self.lam, delta), last)
        # A client without a step has no new model to correct.
        weight = jnp.where(num_steps > 0, self.lam, 0)
        return tree_cast_like(tree_add_scaled(delta, -weight, new), delta), new


class FedSpeed(AbstractOnePass):
    r"""Clients held near the server's model, without the bias of holding them.

    Client $i$ steps from the server's $x$ to $\theta_i$ with

    $$(1 - \alpha)\, g + \alpha\, \nabla F_i\!\left(\theta + \rho \frac{g}{\lVert g
    \rVert}\right) - \hat g_i + \frac1\lambda (\theta - x), \qquad g = \nabla
    F_i(\theta),$$

    renews its correction of the proximal term (0 at first), $\hat g_i \leftarrow \hat
    g_i - \frac1\lambda (\theta_i - x)$, and sends $\theta_i - \lambda \hat g_i$, of
    which the server takes the mean over the participants.

    The step uphill is of length $\rho$, as in the authors' experiments; their analysis
    writes $\theta + \rho g$. It costs two gradients a step. The metrics are those of
    the loss at $\theta$.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][]. The paper's
        clients run plain SGD.
    - `lam`: $\lambda > 0$; the smaller, the stronger the pull.
    - `rho`: $\rho \ge 0$, the length of the step uphill.
    - `alpha`: $\alpha$ from 0 to 1, the share of the gradient found there.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [FedSpeed: Larger Local Interval, Less Communication Round, and Higher
        Generalization Accuracy](https://arxiv.org/abs/2302.10429)

        ```bibtex
        @inproceedings{sun2023fedspeed,
            title={{FedSpeed}: {L}arger {L}ocal {I}nterval, {L}ess {C}ommunication
                   {R}ound, and {H}igher {G}eneralization {A}ccuracy},
            author={Sun, Yan and Shen, Li and Huang, Tiansheng and Ding, Liang and Tao,
                    Dacheng},
            booktitle={ICLR},
            year={2023},
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
        lam: ArrayLike,
        rho: ArrayLike,
        alpha: ArrayLike = 1.0,
        aggregator: AbstractAggregator | None = None,
    ):
        correction = _ProxCorrection(lam, alpha, SharpnessAware(rho))
        self.client = LocalSGD(loss, client_optim, batching, correction)
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.server = OptaxServer(optax.sgd(1.0))
