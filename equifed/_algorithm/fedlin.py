"""FedLin: each client's own gradient is replaced by the gradient of all."""

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import as_number, checked
from .._client import AbstractClient, AbstractCorrection, full_gradient, LocalSGD
from .._client.reach import only, reached
from .._round import Beginning
from .._tree import tree_add, tree_cast_like, tree_scale, tree_sub, tree_zeros_like
from .._types import Loss
from .._wire import Broadcast, Message
from ..data import AbstractBatching
from .base import AbstractAlgorithm
from .two_passes import of_both


class _Measures(AbstractClient):
    """Sends its gradient at the server's model. It keeps it for the second pass, beside
    the inverse of its number of steps."""

    loss: Loss
    batching: AbstractBatching

    def init(self, params):
        return tree_zeros_like(params), jnp.zeros((), jnp.result_type(float))

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        size = self.batching.batch_size
        grads, _ = full_gradient(self.loss, broadcast, data, size, key=key)
        steps = jnp.maximum(data.num_steps, 1).astype(jnp.result_type(float))
        return Message(grads, data.weight), (grads, 1 / steps), {}


class _InPlaceOfOwn(AbstractCorrection):
    r"""$\frac1{K_i} (g - \nabla F_i(x) + \nabla F(x))$."""

    def init(self, params):
        return tree_zeros_like(params), jnp.zeros((), jnp.result_type(float))

    def payload(self, params):
        return params

    def begin(self, params, shared, state, gradient):
        own, inverse = state
        return tree_sub(shared, own), inverse, state

    def correct(self, grads, params, carry, gradient):
        offset, inverse, _ = carry
        return tree_scale(inverse, tree_add(grads, offset)), carry

    def end(self, delta, num_steps, carry):
        *_, state = carry
        return delta, state


class FedLin(AbstractAlgorithm):
    r"""Linear convergence although clients differ in their data and their numbers of
    steps.

    A round makes two passes. In the first the clients send their gradients over all
    their examples at the server's $x$, whose mean is $\nabla F(x)$. In the second
    client $i$ takes $K_i$ steps from $x$, at a rate that falls with their number,

    $$\theta \leftarrow \theta - \frac{\eta}{K_i} \big(\nabla F_i(\theta) - \nabla
    F_i(x) + \nabla F(x)\big),$$

    and $x$ becomes the mean of the clients' $\theta$. The paper's
    $\nabla F_i(\theta)$ is that of all examples; here it is that of the batch, and
    $\nabla F_i(x)$ stays that of all.

    The paper sparsifies the gradients of the first pass, at the clients or at the
    server: `gradient_aggregator` may do so.

    **Arguments:**

    - `loss`, `batching`: as in [`equifed.FedAvg`][].
    - `learning_rate`: $\eta > 0$: how far a client goes in all its steps together.
    - `aggregator`: of the clients' changes; [`equifed.UniformMean`][] if not given, as
        in the paper.
    - `gradient_aggregator`: of the first pass's gradients; `aggregator` if not given.

    ??? cite "Reference"

        [Linear Convergence in Federated Learning: Tackling Client Heterogeneity and
        Sparse Gradients](https://arxiv.org/abs/2102.07053)

        ```bibtex
        @inproceedings{mitra2021linear,
            title={{L}inear {C}onvergence in {F}ederated {L}earning: {T}ackling {C}lient
                   {H}eterogeneity and {S}parse {G}radients},
            author={Mitra, Aritra and Jaafar, Rayana and Pappas, George J. and Hassani,
                    Hamed},
            booktitle={NeurIPS},
            year={2021},
        }
        ```
    """

    loss: Loss
    batching: AbstractBatching
    learning_rate: Float[Array, ""]
    aggregator: AbstractAggregator
    gradient_aggregator: AbstractAggregator

    @checked()
    def __init__(
        self,
        loss: Loss,
        learning_rate: ArrayLike,
        batching: AbstractBatching,
        *,
        aggregator: AbstractAggregator | None = None,
        gradient_aggregator: AbstractAggregator | None = None,
    ):
        self.loss, self.batching = loss, batching
        self.learning_rate = as_number(
            "learning_rate", learning_rate, least=0, strict=True
        )
        self.aggregator = UniformMean() if aggregator is None else aggregator
        same = gradient_aggregator is None
        self.gradient_aggregator = self.aggregator if same else gradient_aggregator

    def begin(self, params, *, num_clients, key):
        each = (self.gradient_aggregator.init(params), self.aggregator.init(params))
        return Beginning(params, None, each, None)

    def step(self, state, clients, *, key):
        full_key, local_key = jr.split(key)
        x, (at_full, at_local) = state.params, state.aggregator
        sent, first = Broadcast(x, state.rest), _Measures(self.loss, self.batching)
        slots = clients.index.shape
        nothing = jtu.tree_map(
            lambda x: jnp.zeros((*slots, *x.shape), x.dtype), first.init(x)
        )
        mean_of = self.gradient_aggregator
        full = clients(first, mean_of, sent, nothing, at_full, key=full_key)
        mean = tree_cast_like(full.aggregate.payload, x)
        optim = optax.sgd(self.learning_rate)
        local = LocalSGD(self.loss, optim, self.batching, _InPlaceOfOwn())
        out = clients(
            local,
            self.aggregator,
            dataclasses.replace(sent, shared=mean),
            full.clients,
            at_local,
            key=local_key,
        )
        # What the loss does not reach stays, whatever an aggregator adds.
        where = reached(self.loss, sent, clients.example)
        change = tree_cast_like(out.aggregate.payload, x)
        state = dataclasses.replace(
            state,
            params=only(where, tree_add(x, change), x),
            aggregator=(full.aggregator, out.aggregator),
        )
        return state, *of_both(full, out)

    def model(self, state):
        return state.model
