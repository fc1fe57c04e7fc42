"""FedDC: each client learns how far it drifts, and takes it back."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked, number
from .._client import AbstractCorrection, LocalSGD
from .._client.correction import mean_of_steps
from .._optim import OptimLike
from .._server import AbstractServer
from .._tree import (
    tree_add,
    tree_add_scaled,
    tree_cast_like,
    tree_sub,
    tree_where,
    tree_wide,
    tree_zeros_like,
)
from .._types import Loss, Params
from .._wire import AbstractPayload
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class _Payload(AbstractPayload):
    """The change of the params with the drift added, and the mean step."""

    additive: ClassVar[bool] = True
    delta: Params
    step: Params


class _Drift(AbstractCorrection):
    r"""$g + \alpha (\theta + h_i - x) + (u - u_i)$: the drift $h_i$ is penalised, and
    steps are made to agree: $u_i$ is the client's mean step of the last time, and $u$
    the mean over the last participants."""

    alpha: Float[Array, ""] = eqx.field(converter=number("alpha", least=0))

    def init(self, params):
        return tree_zeros_like(params), tree_zeros_like(params)

    def payload(self, params):
        return _Payload(params, params)

    def begin(self, params, shared, state, gradient):
        drift, step = state
        total = tree_wide(tree_zeros_like(params))
        return tree_sub(params, drift), tree_sub(shared, step), total, state

    def correct(self, grads, params, carry, gradient):
        centre, offset, total, state = carry
        pull = tree_sub(params, centre)
        used = tree_add(tree_add_scaled(grads, self.alpha, pull), offset)
        return used, (centre, offset, tree_add(total, used), state)

    def end(self, delta, num_steps, carry):
        *_, total, (drift, last) = carry
        drift = tree_add(drift, delta)
        step = mean_of_steps(total, num_steps, last)
        step = tree_where(num_steps > 0, step, last)
        return _Payload(tree_add(delta, drift), step), (drift, step)


class _DriftServer(AbstractServer):
    r"""Adds the mean of the changes, and broadcasts the mean step."""

    def init(self, params, *, num_clients):
        return tree_zeros_like(params)

    def broadcast(self, params, state):
        return state

    def round(self, params, aggregate, state, *, key):
        payload = aggregate.payload
        return tree_add(params, payload.delta), tree_cast_like(payload.step, state)


class FedDC(AbstractOnePass):
    r"""Local drift, decoupled and corrected.

    Client $i$ keeps its drift $h_i$ (0 at first). From the server's $x$ it minimises
    $F_i(\theta) + \frac\alpha2 \lVert \theta + h_i - x \rVert^2 + \frac{1}{\eta K}
    \langle \theta, g_i - g \rangle$ to $\theta_i$, where $g_i$ is by how much its
    $\theta$ changed the last time, and $g$ the mean of that over the last participants.
    Then

    $$h_i \leftarrow h_i + \theta_i - x, \qquad x \leftarrow \frac{1}{|S|} \sum_{i \in
    S} (\theta_i + h_i).$$

    In place of $-g_i / (\eta K)$ the client keeps the mean of the $K$ gradients with
    which it stepped, which is the same for plain SGD and asks for no rate.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][]. The paper's
        clients run plain SGD.
    - `alpha`: $\alpha \ge 0$, the weight of the penalty.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [FedDC: Federated Learning with Non-IID Data via Local Drift Decoupling and
        Correction](https://arxiv.org/abs/2203.11751)

        ```bibtex
        @inproceedings{gao2022feddc,
            title={{FedDC}: {F}ederated {L}earning with {N}on-{IID} {D}ata via {L}ocal
                   {D}rift {D}ecoupling and {C}orrection},
            author={Gao, Liang and Fu, Huazhu and Li, Li and Chen, Yingwen and Xu, Ming
                    and Xu, Cheng-Zhong},
            booktitle={CVPR},
            year={2022},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: _DriftServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        alpha: ArrayLike,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching, _Drift(alpha))
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.server = _DriftServer()
