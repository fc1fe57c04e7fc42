"""Per-FedAvg: a model to begin with, which one step on a client's data makes good."""

from typing import Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, UniformMean
from .._check import as_number, checked
from .._client import AbstractClient, merge_metrics, zero_metrics
from .._client.gradient import BatchLoss
from .._client.reach import only, reached
from .._noise import reseed_noise
from .._optim import as_optim, Optim, OptimLike
from .._server import OptaxServer
from .._tree import tree_add, tree_add_scaled, tree_row, tree_sub
from .._types import Loss
from .._wire import CHANGE, Message
from ..data import AbstractBatching, Steps
from .one_pass import AbstractOnePass


# How many batches a step takes.
_BATCHES = {"FO": 2, "HF": 3}


class _MetaSteps(AbstractClient):
    """Local steps down the loss after one step of adaptation, each on batches of its
    own."""

    loss: Loss
    batching: AbstractBatching
    optim: Optim
    alpha: Float[Array, ""]
    form: str
    sends = (CHANGE,)
    follows_loss = True

    def init(self, params):
        return None

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        start, rest = broadcast.params, broadcast.rest
        where, size = reached(self.loss, broadcast, data.example), _BATCHES[self.form]
        step_key, noise_key = jr.split(key)
        optim, at = reseed_noise((self.optim, self.optim.init(start)), noise_key)

        def step(carry, examples, mask, i):
            params, at, metrics = carry
            keys = jr.split(jr.fold_in(step_key, i), size)
            batches = [
                BatchLoss(self.loss, rest, tree_row(examples, j), mask[j], keys[j])
                for j in range(size)
            ]
            slope, *found = self._slope(params, batches)
            updates, at = optim.update(slope, at, params)
            params = only(where, tree_add(params, updates), params)
            for new in found:
                metrics = merge_metrics(metrics, new)
            return params, at, metrics

        metrics = zero_metrics(self.loss, broadcast.model, data.example)
        params, _, metrics = data.fold_groups(step, (start, at, metrics), size=size)
        weight = jnp.where(data.num_steps >= size, data.weight, 0)
        return Message(tree_sub(params, start), weight), state, metrics

    def _slope(self, params, batches):
        """The gradient of the loss after a step of adaptation, and the metrics of each
        of the batches."""
        slope, first = batches[0].gradient(params)
        adapted = tree_add_scaled(params, -self.alpha, slope)
        slope, second = batches[1].gradient(adapted)
        if self.form == "FO":
            return slope, first, second
        gradient = jax.grad(batches[2], has_aux=True)
        _, product, third = jax.jvp(gradient, (params,), (slope,), has_aux=True)
        return tree_add_scaled(slope, -self.alpha, product), first, second, third


class PerFedAvg(AbstractOnePass):
    r"""Per-FedAvg: federated model-agnostic meta-learning.

    The server's $w$ is to be good after one step of each client, that is, to minimise
    the mean of $F_i(w - \alpha \nabla F_i(w))$. A local step takes batches $D$, $D'$
    and, in the form HF, $D''$, which follow one another in the client's plan:

    $$\tilde w = w - \alpha \nabla F_D(w), \qquad w \leftarrow w - \beta\, \big(I -
    \alpha \nabla^2 F_{D''}(w)\big) \nabla F_{D'}(\tilde w).$$

    So a client takes half, or a third, of the steps that it has planned: those left
    over are left out, and one that has planned fewer than two, or three, counts as
    absent. The metrics are of all these batches, each where its gradient is taken: half
    of them, or a third, after the step of adaptation.

    `state.model` is $w$, and so is `algorithm.own_model(state, kept)`: a client's model
    is what a step, or several, from there on its own examples make of it.

    **Arguments:**

    - `loss`, `batching`, `server_optim`: as in [`equifed.FedAvg`][].
    - `client_optim`: $\beta$, as `optax.sgd(beta)`, in the paper.
    - `alpha`: $\alpha \ge 0$, the rate of the step of adaptation. At 0 this is FedAvg
        on the batches $D'$.
    - `form`: `"FO"` leaves out the Hessian (first order); `"HF"` multiplies with it,
        without computing it. The paper approximates the product by a difference of
        two gradients; here it is the derivative of the gradient along
        $\nabla F_{D'}(\tilde w)$, which costs as much.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        Algorithm 1 of [Personalized Federated Learning: A Meta-Learning
        Approach](https://arxiv.org/abs/2002.07948)

        ```bibtex
        @inproceedings{fallah2020personalized,
            title={{P}ersonalized {F}ederated {L}earning with {T}heoretical
                   {G}uarantees: {A} {M}odel-{A}gnostic {M}eta-{L}earning {A}pproach},
            author={Fallah, Alireza and Mokhtari, Aryan and Ozdaglar, Asuman},
            booktitle={NeurIPS},
            year={2020},
        }
        ```
    """

    client: _MetaSteps
    aggregator: AbstractAggregator
    server: OptaxServer

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        alpha: ArrayLike,
        form: Literal["FO", "HF"] = "FO",
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        needed = _BATCHES[form]
        if isinstance(batching, Steps) and batching.num_batches < needed:
            raise ValueError(
                f"`batching` must plan at least {needed} batches, which a step of the "
                f"form {form!r} takes, got {batching!r}. Give `Steps({needed}, ...)` "
                "or more."
            )
        self.client = _MetaSteps(
            loss,
            batching,
            as_optim(client_optim),
            as_number("alpha", alpha, least=0),
            form,
        )
        self.aggregator = UniformMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)
