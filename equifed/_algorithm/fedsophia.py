"""Fed-Sophia: clipped steps by a light estimate of the curvature."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import as_number, check_count, checked
from .._client import AbstractClient, batch_gradient, merge_metrics, zero_metrics
from .._client.outputs import masked_mean, Outputs, outputs_of
from .._client.reach import only, reached
from .._measures import cross_entropy
from .._optim import OptimLike
from .._server import OptaxServer
from .._tree import tree_scale, tree_sub, tree_wide, tree_zeros_like
from .._types import Loss, Params
from .._wire import CHANGE, Message
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class _Sophia(AbstractClient):
    """Runs Sophia on the client's batches, and keeps its two averages and its number of
    steps."""

    loss: Loss
    batching: AbstractBatching
    logits: Outputs
    learning_rate: Float[Array, ""]
    rho: Float[Array, ""]
    beta1: Float[Array, ""]
    beta2: Float[Array, ""]
    weight_decay: Float[Array, ""]
    eps: Float[Array, ""]
    interval: int
    sends = (CHANGE,)
    follows_loss = True

    def init(self, params):
        # Squares of gradients, and `eps`, are nothing in half precision.
        zeros = tree_zeros_like(tree_wide(params))
        return zeros, zeros, jnp.zeros((), jnp.int32)

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        start, rest = broadcast.params, broadcast.rest
        where = reached(self.loss, broadcast, data.example)

        def step(carry, examples, mask, i):
            params, (mean, curvature, count), metrics = carry
            grad_key, label_key = jr.split(jr.fold_in(key, i))
            batch = (rest, examples, mask)
            grads, new = batch_gradient(self.loss, params, *batch, key=grad_key)
            mean = _average(self.beta1, mean, grads)
            curvature = jax.lax.cond(
                count % self.interval == 0,
                lambda: _average(
                    self.beta2,
                    curvature,
                    self._curvature(params, *batch, key=label_key),
                ),
                lambda: curvature,
            )
            moved = jtu.tree_map(self._move, params, mean, curvature)
            params = only(where, moved, params)
            state = (mean, curvature, count + 1)
            return params, state, merge_metrics(metrics, new)

        metrics = zero_metrics(self.loss, broadcast.model, data.example)
        params, state, metrics = data.fold(step, (start, state, metrics))
        return Message(tree_sub(params, start), data.weight), state, metrics

    def _curvature(self, params, rest, examples, mask, *, key) -> Params:
        r"""$|B|\, \hat g \odot \hat g$ with labels that the model draws."""
        keys, draws = (jr.split(key, mask.size) for key in jr.split(key))

        def drawn(params: Params) -> Float[Array, ""]:
            model = eqx.combine(params, rest)
            logits = outputs_of("logits", self.logits, model, examples, keys)
            labels = jax.vmap(jr.categorical)(draws, jax.lax.stop_gradient(logits))
            return masked_mean(cross_entropy(logits, labels), mask)

        grads = jax.grad(drawn)(params)
        count = mask.sum().astype(jnp.result_type(float))
        return tree_scale(count, jtu.tree_map(jnp.square, tree_wide(grads)))

    def _move(self, x: Array, mean: Array, curvature: Array) -> Array:
        rate, decay, rho, eps = (
            v.astype(mean.dtype)
            for v in (self.learning_rate, self.weight_decay, self.rho, self.eps)
        )
        new = x.astype(mean.dtype) * (1 - rate * decay)
        new = new - rate * jnp.clip(mean / jnp.maximum(curvature, eps), -rho, rho)
        return new.astype(x.dtype)


def _average(beta: Float[Array, ""], old: Params, new: Params) -> Params:
    def average(x: Array, y: Array) -> Array:
        by = beta.astype(x.dtype)
        return by * x + (1 - by) * y.astype(x.dtype)

    return jtu.tree_map(average, old, new)


class FedSophia(AbstractOnePass):
    r"""FedAvg whose clients run Sophia, a second-order optimiser that costs little more
    than a gradient.

    Client $i$ keeps an average $m$ of its gradients, $h$ of the diagonal of its
    curvature (both 0 at first), and counts its steps. In every `interval`-th step, the
    first of all among them, it estimates the curvature by Gauss-Newton-Bartlett: with
    labels that it draws from the model's own softmax for the batch $B$, $\hat g =
    \nabla \frac1{|B|} \sum_{e \in B} \mathrm{CE}$ and $\hat h = |B|\, \hat g \odot
    \hat g$. From the server's $x$,

    $$m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad h \leftarrow \beta_2 h + (1 -
    \beta_2) \hat h,$$

    $$\theta \leftarrow \theta - \eta \lambda \theta, \qquad \theta \leftarrow \theta -
    \eta\, \mathrm{clip}\!\left(\frac{m}{\max(h, \epsilon)}, \rho\right),$$

    number by number, with $|\mathrm{clip}(z, \rho)| \le \rho$. The server takes the
    mean of the clients' models. Whether $m$ and $h$ outlive a round is left open by the
    paper; here they do, as averages without a correction of their beginning need it.

    **Arguments:**

    - `loss`, `batching`: as in [`equifed.FedAvg`][].
    - `learning_rate`: $\eta > 0$, the clients' learning rate.
    - `logits`: `logits(model, example, key)`, a vector with one number for each class.
    - `rho`: $\rho > 0$: a number moves by at most $\eta \rho$ in a step.
    - `beta1`, `beta2`, `eps`, `interval`: those of Sophia's paper (arXiv 2305.14342)
        if not given. The averages are kept in float32 at least, where `eps` is not 0.
    - `weight_decay`: $\lambda \ge 0$, how much of the parameters a step takes off,
        times $\eta$.
    - `server_optim`: `optax.sgd(1.0)` if not given.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [Fed-Sophia: A Communication-Efficient Second-Order Federated Learning
        Algorithm](https://arxiv.org/abs/2406.06655)

        ```bibtex
        @inproceedings{elbakary2024fedsophia,
            title={{Fed-Sophia}: {A} {C}ommunication-{E}fficient {S}econd-{O}rder
                   {F}ederated {L}earning {A}lgorithm},
            author={Elbakary, Ahmed and Ben Issaid, Chaouki and Shehab, Mohammad and
                    Seddik, Karim and ElBatt, Tamer and Bennis, Mehdi},
            booktitle={ICC},
            year={2024},
        }
        ```
    """

    client: _Sophia
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        learning_rate: ArrayLike,
        batching: AbstractBatching,
        *,
        logits: Callable,
        rho: ArrayLike,
        beta1: ArrayLike = 0.96,
        beta2: ArrayLike = 0.99,
        weight_decay: ArrayLike = 0.0,
        eps: ArrayLike = 1e-12,
        interval: int = 10,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = _Sophia(
            loss,
            batching,
            logits,
            learning_rate=as_number(
                "learning_rate", learning_rate, least=0, strict=True
            ),
            rho=as_number("rho", rho, least=0, strict=True),
            beta1=as_number("beta1", beta1, least=0, below=1),
            beta2=as_number("beta2", beta2, least=0, below=1),
            weight_decay=as_number("weight_decay", weight_decay, least=0),
            eps=as_number("eps", eps, least=0, strict=True),
            interval=check_count("interval", interval),
        )
        self.aggregator = UniformMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)
