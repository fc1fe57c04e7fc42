"""FedLC: the logits of classes that a client has little of are held back less."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import as_number, checked
from .._client import AbstractCriterion, LocalSGD
from .._client.outputs import (
    as_column,
    class_counts,
    labels_of,
    masked_mean,
    nan_where,
    num_outputs,
    Outputs,
    outputs_of,
)
from .._measures import cross_entropy
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class CalibratedCrossEntropy(AbstractCriterion):
    r"""The cross-entropy of calibrated logits, $z_c - \tau n_c^{-1/4}$, in place of the
    mean loss: $n_c$ of the client's examples are of class $c$, and a class of which it
    has none is left out.

    **Arguments:**

    - `logits`: a function of what the loss is given that makes an example's logits.
    - `label`: the name of the column of labels, or a function of one example.
    - `tau`: $\tau \ge 0$, how wide the margins are.
    """

    logits: Outputs
    label: Callable
    tau: Float[Array, ""]

    @checked()
    def __init__(
        self, logits: Callable, label: str | Callable = "label", *, tau: ArrayLike
    ):
        self.logits = logits
        self.label = as_column("label", label)
        self.tau = as_number("tau", tau, least=0)

    def begin(self, broadcast, data):
        size = num_outputs("logits", self.logits, broadcast.model, data)
        return class_counts(self.label, data, size)

    def value(self, loss, model, examples, mask, given, *, keys):
        logits = outputs_of("logits", self.logits, model, examples, keys)
        labels, valid = labels_of("label", self.label, examples, logits.shape[-1])
        there = given > 0
        margin = (self.tau / jnp.where(there, given, 1) ** 0.25).astype(logits.dtype)
        held_back = jnp.where(there[None], logits - margin[None], -jnp.inf)
        # Of an invalid label all is NaN, though its class is not there.
        logits = jnp.where(valid[:, None], held_back, nan_where(mask & ~valid, logits))
        labels = jnp.where(valid, labels, 0)
        return masked_mean(cross_entropy(logits, labels), mask).astype(loss.dtype)


class FedLC(AbstractOnePass):
    r"""Federated learning by logits calibration: a client that has few examples of a
    class, or none, does not unlearn it.

    Client $i$ has $n_c$ examples of class $c$, and minimises the cross-entropy of
    calibrated logits, whose margins are wider for rarer classes:

    $$-\log \frac{\exp\big(z_y - \tau\, n_y^{-1/4}\big)}{\sum_c \exp\big(z_c - \tau\,
    n_c^{-1/4}\big)}.$$

    The logit of a class of which it has no example is in no sum, so that its weights
    stay. The metrics are those of the loss, which is not what is minimised.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `aggregator`: as in
        [`equifed.FedAvg`][].
    - `logits`: `logits(model, example, key)`, a vector with one number for each class.
    - `label`: the name of the column of labels, or a function of one example. Examples
        whose label has no logit make the client's change NaN, which is found out.
    - `tau`: $\tau \ge 0$, how wide the margins are. At 0, and where every client has
        every class, this is FedAvg with the cross-entropy.

    ??? cite "Reference"

        [Federated Learning with Label Distribution Skew via Logits
        Calibration](https://arxiv.org/abs/2209.00189)

        ```bibtex
        @inproceedings{zhang2022federated,
            title={{F}ederated {L}earning with {L}abel {D}istribution {S}kew via
                   {L}ogits {C}alibration},
            author={Zhang, Jie and Li, Zhiqi and Li, Bo and Xu, Jianghe and Wu, Shuang
                    and Ding, Shouhong and Wu, Chao},
            booktitle={ICML},
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
        tau: ArrayLike,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        criterion = CalibratedCrossEntropy(logits, label, tau=tau)
        self.client = LocalSGD(loss, client_optim, batching, criterion=criterion)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)
