"""FedVARP: what absent clients sent last stands in for them."""

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked
from .._client import AbstractCorrection, LocalSGD
from .._optim import OptimLike
from .._server import AbstractServer, OptaxServer
from .._tree import tree_add, tree_add_scaled, tree_sub, tree_where, tree_zeros_like
from .._types import Loss, Params
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


NEWS = "the difference of a change from the client's last one (`FedVARP`)"


class _News(AbstractCorrection):
    r"""Sends by how much the change differs from that of the last time,
    $\Delta_i - y_i$."""

    sends = (NEWS,)

    def init(self, params):
        return tree_zeros_like(params)

    def payload(self, params):
        return params

    def begin(self, params, shared, state, gradient):
        return state

    def correct(self, grads, params, carry, gradient):
        return grads, carry

    def end(self, delta, num_steps, carry):
        return tree_sub(delta, carry), tree_where(num_steps > 0, delta, carry)


class _MeanState(eqx.Module):
    """The inner server's state, and the mean of all clients' latest changes."""

    server: PyTree
    mean: Params
    num_clients: Float[Array, ""]


class _Surrogates(AbstractServer):
    r"""Hands $\overline{\Delta - y} + \frac1N \sum_j y_j$ to another server."""

    server: AbstractServer
    understands = (NEWS,)

    def init(self, params, *, num_clients):
        return _MeanState(
            self.server.init(params, num_clients=num_clients),
            tree_zeros_like(params),
            jnp.asarray(num_clients, jnp.result_type(float)),
        )

    def broadcast(self, params, state):
        return None

    def round(self, params, aggregate, state, *, key):
        news = aggregate.payload
        whole = eqx.tree_at(lambda a: a.payload, aggregate, tree_add(news, state.mean))
        params, server = self.server.round(params, whole, state.server, key=key)
        share = aggregate.count / state.num_clients
        mean = tree_add_scaled(state.mean, share, news)
        return params, _MeanState(server, mean, state.num_clients)


class FedVARP(AbstractOnePass):
    r"""FedAvg without the variance that comes of a part of the clients taking part.

    For each of the $N$ clients its latest change of the params $y_j$ is kept (0 at
    first). With the changes $\Delta_i$ of the participants $S$,

    $$x \leftarrow x + \eta_g \left( \frac{1}{|S|} \sum_{i \in S} (\Delta_i - y_i) +
    \frac1N \sum_{j=1}^N y_j \right), \qquad y_i \leftarrow \Delta_i \text{ for } i \in
    S.$$

    In the paper the server keeps the $y_j$; here each is its client's state, and the
    server their mean: the same numbers. Where all take part this is FedAvg.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][]. The paper's
        clients run plain SGD.
    - `server_optim`: `optax.sgd(1.0)` if not given; its learning rate is $\eta_g$.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [FedVARP: Tackling the Variance Due to Partial Client Participation in
        Federated Learning](https://arxiv.org/abs/2207.14130)

        ```bibtex
        @inproceedings{jhunjhunwala2022fedvarp,
            title={{FedVARP}: {T}ackling the {V}ariance {D}ue to {P}artial {C}lient
                   {P}articipation in {F}ederated {L}earning},
            author={Jhunjhunwala, Divyansh and Sharma, Pranay and Nagarkatti, Aushim
                    and Joshi, Gauri},
            booktitle={UAI},
            year={2022},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: _Surrogates

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = LocalSGD(loss, client_optim, batching, _News())
        self.aggregator = UniformMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = _Surrogates(OptaxServer(server_optim))
