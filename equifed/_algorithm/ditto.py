"""Ditto: a model of each client's own, held near the server's."""

import equinox as eqx
import jax.random as jr
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked, number
from .._client import AbstractMemoryless, AbstractWrapper, LocalSGD
from .._optim import as_optim, OptimLike
from .._server import OptaxServer
from .._tree import tree_add_scaled, tree_sub
from .._types import Loss
from .._wire import Broadcast, CHANGE
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class _PullTo(AbstractMemoryless):
    r"""$g + \lambda (v - w)$: towards what is shared, wherever the steps began."""

    lam: Float[Array, ""] = eqx.field(converter=number("lam", least=0))

    def begin(self, params, shared, state, gradient):
        return shared

    def correct(self, grads, params, carry, gradient):
        return tree_add_scaled(grads, self.lam, tree_sub(params, carry)), carry


class _TrainsOwn(AbstractWrapper):
    """Trains the server's model, and beside it its own, which it keeps."""

    client: LocalSGD
    own: LocalSGD
    sends = (CHANGE,)

    def __init__(self, client: LocalSGD, own: LocalSGD):
        self.client = client
        self.own = own

    def init(self, params):
        return params

    def payload(self, params):
        return self.client.payload(params)

    def round(self, broadcast, data, state, *, key):
        key, own_key = jr.split(key)
        start = Broadcast(state, broadcast.rest, broadcast.params)
        first, step = self.client._begin(broadcast, data, None, key=key)
        own_first, own_step = self.own._begin(start, data, None, key=own_key)

        def both(carries, examples, mask, i):
            carry, own = carries
            return step(carry, examples, mask, i), own_step(own, examples, mask, i)

        # In one loop: neither of the two gradients of a batch waits for the other.
        carry, (own_params, *_) = data.fold(both, (first, own_first))
        message, _, metrics = self.client._end(broadcast, data, carry)
        return message, own_params, metrics


class Ditto(AbstractOnePass):
    r"""Each client trains a model of its own beside the server's, and is pulled towards
    that.

    Client $i$ keeps $v_i$, which is the initial model at first. When it is sent $w$, it
    runs local SGD from $w$, whose change it sends as in FedAvg; and it takes as many
    steps along the same batches from $v_i$,

    $$v_i \leftarrow v_i - \eta\, \big(\nabla F_i(v_i) + \lambda (v_i - w)\big),$$

    with the $w$ that it was sent, not with what it has made of it. (The paper leaves
    the number $s$ of these steps open; its authors' program takes as many as of the
    others, as here.) They have random numbers of their own. The server's model is that
    of FedAvg. The metrics are those of its training. A client whose own model becomes
    non-finite keeps the one that it had, and is counted in `nonfinite`; its message is
    aggregated all the same.

    `algorithm.own_model(state, kept)` is $v_i$; `state.model` is the server's.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`: as in [`equifed.FedAvg`][].
    - `lam`: $\lambda \ge 0$. At 0 a client's own model is trained on its examples
        alone; the larger it is, the nearer it stays to the server's.
    - `own_optim`: the optimiser of the client's own model; `client_optim` if not given.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        Algorithm 1 of [Ditto: Fair and Robust Federated Learning Through
        Personalization](https://arxiv.org/abs/2012.04221)

        ```bibtex
        @inproceedings{li2021ditto,
            title={{D}itto: {F}air and {R}obust {F}ederated {L}earning {T}hrough
                   {P}ersonalization},
            author={Li, Tian and Hu, Shengyuan and Beirami, Ahmad and Smith, Virginia},
            booktitle={ICML},
            year={2021},
        }
        ```
    """

    client: _TrainsOwn
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
        own_optim: OptimLike | None = None,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        client_optim = as_optim(client_optim, gives=("value",))
        own_optim = client_optim if own_optim is None else own_optim
        self.client = _TrainsOwn(
            LocalSGD(loss, client_optim, batching),
            LocalSGD(loss, own_optim, batching, _PullTo(lam)),
        )
        self.aggregator = UniformMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)

    def own_model(self, state, kept):
        return eqx.combine(kept, state.rest)
