"""FedDyn: the clients' correction, the server's part, and the algorithm."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked, number
from .._client import AbstractCorrection, LocalSGD
from .._optim import OptimLike
from .._server import AbstractServer
from .._tree import (
    tree_add,
    tree_add_scaled,
    tree_scale,
    tree_sub,
    tree_zeros_like,
)
from .._types import Loss, Params
from .._words import shown
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


FEDDYN = "FedDyn's change of the params (`DynamicRegularizer`, `DynServer`)"


class DynamicRegularizer(AbstractCorrection):
    r"""FedDyn's regulariser: $g - h_i + \alpha (\theta - x)$.

    $h_i$ is the client's gradient at its last local optimum, kept up to date by
    $h_i \leftarrow h_i - \alpha (\theta_i - x)$. The server broadcasts $\alpha$.
    """

    sends = (FEDDYN,)

    def init(self, params):
        return tree_zeros_like(params)

    def payload(self, params):
        return params

    def begin(self, params, shared, state, gradient):
        if not eqx.is_array(shared) or shared.shape != ():
            raise TypeError(
                "`DynamicRegularizer` takes alpha from the server's broadcast, got "
                f"{shown(shared)}. It goes with `DynServer`."
            )
        return shared, params, state

    def correct(self, grads, params, carry, gradient):
        alpha, start, h = carry
        pull = tree_sub(tree_scale(alpha, tree_sub(params, start)), h)
        return tree_add(grads, pull), carry

    def end(self, delta, num_steps, carry):
        alpha, _, h = carry
        return delta, tree_add_scaled(h, -alpha, delta)


class DynState(eqx.Module):
    """The server's h, and the size of the population."""

    h: Params
    num_clients: Float[Array, ""]


class DynServer(AbstractServer):
    r"""$h \leftarrow h - \alpha \frac{|S|}{N} \overline{\Delta}$, then
    $x \leftarrow x + \overline{\Delta} - h / \alpha$. It broadcasts $\alpha$."""

    understands = (FEDDYN,)
    alpha: Float[Array, ""] = eqx.field(converter=number("alpha", least=0, strict=True))

    def init(self, params, *, num_clients):
        number = jnp.asarray(num_clients, jnp.result_type(float))
        return DynState(tree_zeros_like(params), number)

    def broadcast(self, params, state):
        return self.alpha

    def round(self, params, aggregate, state, *, key):
        share = aggregate.count / state.num_clients
        h = tree_add_scaled(state.h, -self.alpha * share, aggregate.payload)
        params = tree_add(params, aggregate.payload)
        params = tree_add_scaled(params, -1 / self.alpha, h)
        return params, DynState(h, state.num_clients)


class FedDyn(AbstractOnePass):
    r"""Dynamic regularisation: the clients' optima are made to agree.

    Client $i$ minimises $F_i(\theta) - \langle h_i, \theta \rangle + \frac\alpha2
    \lVert \theta - x \rVert^2$ from the server's $x$ to $\theta_i$, and sets $h_i
    \leftarrow h_i - \alpha (\theta_i - x)$. Over the participants $S$ of $N$ clients,

    $$h \leftarrow h - \frac\alpha N \sum_{i \in S} (\theta_i - x), \qquad
    x \leftarrow \frac{1}{|S|} \sum_{i \in S} \theta_i - \frac1\alpha h.$$

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].
    - `alpha`: $\alpha > 0$, how strongly a client is pulled to the server's model.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [Federated Learning Based on Dynamic
        Regularization](https://arxiv.org/abs/2111.04263)

        ```bibtex
        @inproceedings{acar2021federated,
            title={{F}ederated {L}earning {B}ased on {D}ynamic {R}egularization},
            author={Acar, Durmus Alp Emre and Zhao, Yue and Matas, Ramon and Mattina,
                    Matthew and Whatmough, Paul and Saligrama, Venkatesh},
            booktitle={ICLR},
            year={2021},
        }
        ```
    """

    client: LocalSGD
    aggregator: AbstractAggregator
    server: DynServer

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
        correction = DynamicRegularizer()
        self.client = LocalSGD(loss, client_optim, batching, correction)
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.server = DynServer(alpha)
