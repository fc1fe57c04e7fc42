"""APFL: each client uses a mixture of its own model and the server's."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import as_number, checked
from .._client import AbstractCorrection, AbstractWrapper, LocalSGD
from .._client.reach import only, reached
from .._noise import reseed_noise
from .._optim import as_optim, Optim, OptimLike
from .._server import OptaxServer
from .._tree import (
    tree_add,
    tree_add_scaled,
    tree_scale,
    tree_sub,
    tree_wide,
)
from .._types import Loss, Params
from .._wire import CHANGE
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class _Kept(eqx.Module):
    """What a client keeps: its own model, and how much of it is in the mixture."""

    params: Params
    alpha: Float[Array, ""]

    def mixed_with(self, params: Params) -> Params:
        return tree_add_scaled(params, self.alpha, tree_sub(self.params, params))


class _Mixes(AbstractCorrection):
    """Leaves the gradient as it is, and takes the same batch for a step of the client's
    own model; its state is what it keeps and the state of that model's optimiser."""

    optim: Optim
    alpha: Float[Array, ""]
    alpha_learning_rate: Float[Array, ""]
    sends = (CHANGE,)

    def init(self, params):
        return _Kept(params, self.alpha), self.optim.init(params)

    def payload(self, params):
        return params

    def begin(self, params, shared, state, gradient):
        return *state, jnp.zeros((), bool)

    def correct(self, grads, params, carry, gradient):
        kept, at, begun = carry
        slope = gradient(kept.mixed_with(params))
        # All at once: each step is from where the others were.
        along = _dot(tree_sub(kept.params, params), slope)
        alpha = kept.alpha - self.alpha_learning_rate * along.astype(kept.alpha.dtype)
        alpha = jnp.where(begun, kept.alpha, jnp.clip(alpha, 0, 1))
        own_slope = tree_scale(kept.alpha, slope)
        updates, at = self.optim.update(own_slope, at, kept.params)
        kept = _Kept(tree_add(kept.params, updates), alpha)
        return grads, (kept, at, jnp.ones_like(begun))

    def end(self, delta, num_steps, carry):
        kept, at, _ = carry
        return delta, (kept, at)


def _dot(x: Params, y: Params) -> Float[Array, ""]:
    """The inner product of all leaves together, in float32 at least."""
    wide = jtu.tree_map(lambda a, b: jnp.sum(a * b), tree_wide(x), tree_wide(y))
    leaves = jtu.tree_leaves(wide)
    dtype = jnp.result_type(*leaves)
    return sum((leaf.astype(dtype) for leaf in leaves), jnp.zeros((), dtype))


class _KeepsMixture(AbstractWrapper):
    """Keeps what the correction makes; the optimiser of its own model starts afresh in
    each round, as that of the server's does."""

    client: LocalSGD
    own: _Mixes
    sends = (CHANGE,)

    def __init__(self, client: LocalSGD, own: _Mixes):
        self.client = client
        self.own = own

    def init(self, params):
        return self.own.init(params)[0]

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        key, noise_key = jr.split(key)
        where = reached(self.loss, broadcast, data.example)
        at = self.own.optim.init(state.params)
        own, at = reseed_noise((self.own, at), noise_key)
        client = dataclasses.replace(self.client, correction=own)
        message, (kept, _), metrics = client.round(
            broadcast, data, (state, at), key=key
        )
        # What the loss does not reach stays, whatever the optimiser does.
        kept = _Kept(only(where, kept.params, state.params), kept.alpha)
        return message, kept, metrics


class APFL(AbstractOnePass):
    r"""Adaptive personalized federated learning: each client uses a mixture of a model
    of its own and the server's, and learns how much of each.

    Client $i$ keeps $v_i$, the initial model at first, and $\alpha_i$. When it is sent
    $w$, it takes local steps of SGD from there, with $w_i = w$ at first and
    $\bar v_i = \alpha_i v_i + (1 - \alpha_i) w_i$, all at once and along the same
    batch:

    $$w_i \leftarrow w_i - \eta\, \nabla F_i(w_i), \qquad v_i \leftarrow v_i - \eta\,
    \alpha_i \nabla F_i(\bar v_i).$$

    The change of $w_i$ is sent, so that the server's model is that of FedAvg. Once a
    round, in the first of these steps, as the authors' program does it,

    $$\alpha_i \leftarrow \alpha_i - \eta_\alpha \langle v_i - w_i, \nabla F_i(\bar v_i)
    \rangle,$$

    which is brought back to $[0, 1]$. All leaves have one $\alpha_i$. The factor
    $\alpha_i$ of the step of $v_i$ is that of the chain rule, as it is $F_i(\bar v_i)$
    that is minimised. The metrics are those of the server's model.

    `algorithm.own_model(state, kept)` is the mixture with the server's model as it is
    now; `kept.alpha` is $\alpha_i$; `state.model` is the server's.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`: as in [`equifed.FedAvg`][].
    - `alpha`: $\alpha_i$ at first, in $[0, 1]$. At 0 a client uses the server's model.
    - `alpha_learning_rate`: $\eta_\alpha \ge 0$; the paper's is that of the clients. At
        0 $\alpha_i$ stays as it is, which is Algorithm 1 of the paper.
    - `own_optim`: the optimiser of $v_i$; `client_optim` if not given, as in the paper.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        Algorithm 1 of [Adaptive Personalized Federated
        Learning](https://arxiv.org/abs/2003.13461)

        ```bibtex
        @article{deng2020adaptive,
            title={{A}daptive {P}ersonalized {F}ederated {L}earning},
            author={Deng, Yuyang and Kamani, Mohammad Mahdi and Mahdavi, Mehrdad},
            journal={arXiv:2003.13461},
            year={2020},
        }
        ```
    """

    client: _KeepsMixture
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        alpha: ArrayLike = 0.5,
        alpha_learning_rate: ArrayLike,
        own_optim: OptimLike | None = None,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        client_optim = as_optim(client_optim, gives=("value",))
        own = _Mixes(
            as_optim(client_optim if own_optim is None else own_optim),
            as_number("alpha", alpha, least=0, most=1),
            as_number("alpha_learning_rate", alpha_learning_rate, least=0),
        )
        self.client = _KeepsMixture(LocalSGD(loss, client_optim, batching), own)
        self.aggregator = UniformMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)

    def own_model(self, state, kept):
        return eqx.combine(kept.mixed_with(state.params), state.rest)
