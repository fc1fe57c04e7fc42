"""FedCM: the server's momentum in the clients' gradients."""

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked, number
from .._client import AbstractCorrection, LocalSGD, NoCorrection
from .._client.correction import mean_of_steps
from .._optim import OptimLike
from .._server import AbstractServer, OptaxServer
from .._tree import (
    tree_add,
    tree_add_scaled,
    tree_cast_like,
    tree_scale,
    tree_wide,
    tree_zeros_like,
)
from .._types import Loss, Params
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class ClientMomentum(AbstractCorrection):
    r"""$v = \alpha g + (1 - \alpha) \Delta$, with the server's momentum $\Delta$.

    The client sends $-\frac1K \sum_k v_k$, the mean of its steps before they are scaled
    by a rate: for plain SGD of rate $\eta$ this is $(y - x) / (\eta K)$.
    """

    alpha: Float[Array, ""] = eqx.field(converter=number("alpha", least=0, most=1))
    of: AbstractCorrection = NoCorrection()
    """Where the gradient $g$ comes from."""

    def init(self, params):
        return self.of.init(params)

    def payload(self, params):
        return params

    def begin(self, params, shared, state, gradient):
        total = tree_wide(tree_zeros_like(params))
        return shared, total, self.of.begin(params, shared, state, gradient)

    def correct(self, grads, params, carry, gradient):
        momentum, total, inner = carry
        grads, inner = self.of.correct(grads, params, inner, gradient)
        step = tree_add_scaled(tree_scale(self.alpha, grads), 1 - self.alpha, momentum)
        return step, (momentum, tree_add(total, step), inner)

    def end(self, delta, num_steps, carry):
        _, total, inner = carry
        _, state = self.of.end(delta, num_steps, inner)
        mean = mean_of_steps(total, num_steps, delta)
        return jtu.tree_map(jnp.negative, mean), state


class MomentumState(eqx.Module):
    """The inner server's state, and the momentum that is broadcast."""

    server: PyTree
    momentum: Params


class MomentumServer(AbstractServer):
    r"""Broadcasts the mean of the steps of the round before: $\Delta$."""

    server: AbstractServer

    def init(self, params, *, num_clients):
        inner = self.server.init(params, num_clients=num_clients)
        return MomentumState(inner, tree_zeros_like(params))

    def broadcast(self, params, state):
        return state.momentum

    def round(self, params, aggregate, state, *, key):
        moved, inner = self.server.round(params, aggregate, state.server, key=key)
        momentum = jtu.tree_map(jnp.negative, aggregate.payload)
        return moved, MomentumState(inner, tree_cast_like(momentum, params))


class FedCM(AbstractOnePass):
    r"""Clients whose every step is pulled along by the mean step of the last round.

    Client $i$ takes $K$ steps $y \leftarrow y - \eta v$ from the server's $x$ to $y_i$,
    with $v = \alpha \nabla F_i(y) + (1 - \alpha) \Delta$, where $\Delta$ (0 at first)
    is the server's. Over the participants $S$,

    $$\Delta \leftarrow \frac{1}{|S|} \sum_{i \in S} \frac{x - y_i}{\eta K}, \qquad
    x \leftarrow x - \eta_g \Delta.$$

    What a client sends is $-\frac1K \sum_k v_k$, which asks for no rate and holds for
    clients of unequal $K$ and for any optimiser.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][]. The paper's
        clients run plain SGD.
    - `server_optim`: its learning rate is $\eta_g$. As clients send steps that are not
        scaled by their rate, $\eta_g = \eta K$ moves the model to the mean of the
        clients' models, as FedAvg does.
    - `alpha`: $\alpha$ from 0 to 1; at 1 this is FedAvg. The paper takes 0.1.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [FedCM: Federated Learning with Client-level
        Momentum](https://arxiv.org/abs/2106.10874)

        ```bibtex
        @article{xu2021fedcm,
            title={{FedCM}: {F}ederated {L}earning with {C}lient-level {M}omentum},
            author={Xu, Jing and Wang, Sen and Wang, Liwei and Yao, Andrew Chi-Chih},
            journal={arXiv:2106.10874},
            year={2021},
        }
        ```
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
        aggregator: AbstractAggregator | None = None,
    ):
        correction = ClientMomentum(alpha)
        self.client = LocalSGD(loss, client_optim, batching, correction)
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.server = MomentumServer(OptaxServer(server_optim))
