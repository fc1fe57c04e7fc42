"""FedNTD: what the server's model knows of the other classes is not forgotten."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import as_number, checked
from .._client import AbstractCriterion, LocalSGD
from .._client.outputs import (
    as_column,
    labels_of,
    masked_mean,
    nan_where,
    Outputs,
    outputs_of,
)
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class NotTrueDistillation(AbstractCriterion):
    r"""The mean loss, and $\beta$ times the not-true distillation from the model that
    was sent.

    Over all classes but the label's, an example adds

    $$\sum_{c \ne y} q_x(c) \log \frac{q_x(c)}{q_\theta(c)}, \qquad q_\theta(c) =
    \frac{\exp(z_c(\theta) / \tau)}{\sum_{c' \ne y} \exp(z_{c'}(\theta) / \tau)},$$

    with the logits $z$ of the client's $\theta$ and of the server's $x$. It is NaN for
    a label without a logit.

    **Arguments:**

    - `logits`: a function of what the loss is given that makes an example's logits.
    - `label`: the name of the column of labels, or a function of one example.
    - `beta`: $\beta \ge 0$, how much the distillation counts.
    - `temperature`: $\tau > 0$, by which logits are divided.
    """

    logits: Outputs
    label: Callable
    beta: Float[Array, ""]
    temperature: Float[Array, ""]

    @checked()
    def __init__(
        self,
        logits: Callable,
        label: str | Callable = "label",
        *,
        beta: ArrayLike = 1.0,
        temperature: ArrayLike = 1.0,
    ):
        self.logits = logits
        self.label = as_column("label", label)
        self.beta = as_number("beta", beta, least=0)
        self.temperature = as_number("temperature", temperature, least=0, strict=True)

    def begin(self, broadcast, data):
        return broadcast.params, broadcast.rest

    def value(self, loss, model, examples, mask, given, *, keys):
        mine, theirs = (
            outputs_of("logits", self.logits, x, examples, keys)
            for x in (model, eqx.combine(*given))
        )
        labels, valid = labels_of("label", self.label, examples, mine.shape[-1])
        mine = nan_where(mask & ~valid, mine)
        classes = jnp.arange(mine.shape[-1], dtype=labels.dtype)
        true = classes[None] == labels[:, None]

        def log_others(logits):
            logits = logits / self.temperature.astype(logits.dtype)
            return jax.nn.log_softmax(jnp.where(true, -jnp.inf, logits))

        here, there = log_others(mine), log_others(theirs)
        # Of the label itself both are minus infinity.
        apart = jnp.where(true, 0, jnp.exp(there) * jnp.where(true, 0, there - here))
        apart = masked_mean(apart.sum(-1), mask).astype(loss.dtype)
        return loss + self.beta.astype(loss.dtype) * apart


class FedNTD(AbstractOnePass):
    r"""Not-true distillation: clients keep the server's view of the classes that they
    have not.

    From the server's $x$, client $i$ minimises

    $$F_i(\theta) + \beta\, \frac{1}{|D_i|} \sum_{e \in D_i} \mathrm{KL}\big(q_x(e)
    \,\Vert\, q_\theta(e)\big),$$

    where $q$ are the softmax probabilities, at temperature $\tau$, of all classes but
    the example's own. The loss is left to learn the true class, and the server's
    knowledge of the others is kept. The metrics are those of the loss alone.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `aggregator`: as in
        [`equifed.FedAvg`][].
    - `logits`: `logits(model, example, key)`, a vector with one number for each class.
        The server's model is given the key of the client's: the same dropout.
    - `label`: the name of the column of labels, or a function of one example. Examples
        whose label has no logit make the client's change NaN, which is found out.
    - `beta`: $\beta \ge 0$, how much the distillation counts; 1 in the paper.
    - `temperature`: $\tau > 0$, by which logits are divided; 1 in the paper.

    ??? cite "Reference"

        [Preservation of the Global Knowledge by Not-True Distillation in Federated
        Learning](https://arxiv.org/abs/2106.03097)

        ```bibtex
        @inproceedings{lee2022preservation,
            title={{P}reservation of the {G}lobal {K}nowledge by {N}ot-{T}rue
                   {D}istillation in {F}ederated {L}earning},
            author={Lee, Gihun and Jeong, Minchan and Shin, Yongjin and Bae, Sangmin
                    and Yun, Se-Young},
            booktitle={NeurIPS},
            year={2022},
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
        logits: Callable,
        label: str | Callable = "label",
        beta: ArrayLike = 1.0,
        temperature: ArrayLike = 1.0,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        criterion = NotTrueDistillation(
            logits, label, beta=beta, temperature=temperature
        )
        self.client = LocalSGD(loss, client_optim, batching, criterion=criterion)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)
