"""FedDecorr: representations that do not collapse onto a few directions."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float

from .._aggregator import AbstractAggregator, WeightedMean
from .._check import as_number, checked
from .._client import AbstractCriterion, LocalSGD
from .._client.outputs import Outputs, outputs_of
from .._optim import OptimLike
from .._server import OptaxServer
from .._tree import wide_dtype
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


_EPSILON = 1e-8


class Decorrelation(AbstractCriterion):
    r"""The mean loss and $\frac{\beta}{d^2} \lVert K \rVert_F^2$, where $K$ is the
    correlation matrix of the $d$ numbers of the representation over the batch.

    With the representations $z_1, \dots, z_N$ of the batch's examples, each number
    brought to mean 0 and variance 1 in $\hat z$ (a number that is the same for all is
    0), $K = \frac1N \sum_e \hat z_e \hat z_e^\top$.

    **Arguments:**

    - `representation`: a function of what the loss is given that makes an example's
        representation: what the last layer is given, in the paper.
    - `beta`: $\beta \ge 0$, how much correlation counts.
    """

    representation: Outputs
    beta: Float[Array, ""]

    @checked()
    def __init__(self, representation: Callable, *, beta: ArrayLike = 0.1):
        self.representation = representation
        self.beta = as_number("beta", beta, least=0)

    def begin(self, broadcast, data):
        return None

    def value(self, loss, model, examples, mask, given, *, keys):
        argument = "representation"
        z = outputs_of(argument, self.representation, model, examples, keys)
        z = z.astype(wide_dtype(z.dtype))
        count = jnp.maximum(mask.sum(), 1).astype(z.dtype)
        # Twice: what rounding leaves of a number that is the same for all would be
        # brought to variance 1.
        centred = z - _mean(z, mask, count)
        centred = centred - _mean(centred, mask, count)
        centred = jnp.where(mask[:, None], centred, 0)
        spread = jnp.sqrt(_mean(centred**2, mask, count) + _EPSILON)
        normal = centred / spread
        correlation = normal.T @ normal / count
        penalty = jnp.sum((correlation / z.shape[-1]) ** 2).astype(loss.dtype)
        return loss + self.beta.astype(loss.dtype) * penalty


def _mean(x: Array, mask: Array, count: Array) -> Array:
    return jnp.where(mask[:, None], x, 0).sum(0, keepdims=True) / count


class FedDecorr(AbstractOnePass):
    r"""FedAvg whose clients keep the numbers of their representations uncorrelated.

    Clients whose data are of few classes learn representations that lie in few
    directions, and so does the server's model. Each local step descends, over its batch
    $B$,

    $$\frac1{|B|} \sum_{e \in B} \ell(\theta, e) + \frac{\beta}{d^2} \lVert K(\theta, B)
    \rVert_F^2,$$

    where $K$ is the correlation matrix of the representations' $d$ numbers over the
    batch. A batch of one example has none, and adds nothing. The metrics are those of
    the loss alone.

    With another algorithm's correction: `equifed.LocalSGD(..., correction,
    criterion=equifed.Decorrelation(...))`.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`, `aggregator`: as in
        [`equifed.FedAvg`][].
    - `representation`: `representation(model, example, key)`, a vector: what the last
        layer is given, in the paper.
    - `beta`: $\beta \ge 0$, how much correlation counts; 0.1 in the paper. At 0 this is
        FedAvg.

    ??? cite "Reference"

        [Towards Understanding and Mitigating Dimensional Collapse in Heterogeneous
        Federated Learning](https://arxiv.org/abs/2210.00226)

        ```bibtex
        @inproceedings{shi2023towards,
            title={{T}owards {U}nderstanding and {M}itigating {D}imensional {C}ollapse
                   in {H}eterogeneous {F}ederated {L}earning},
            author={Shi, Yujun and Liang, Jian and Zhang, Wenqing and Tan, Vincent Y. F.
                    and Bai, Song},
            booktitle={ICLR},
            year={2023},
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
        representation: Callable,
        beta: ArrayLike = 0.1,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        criterion = Decorrelation(representation, beta=beta)
        self.client = LocalSGD(loss, client_optim, batching, criterion=criterion)
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        server_optim = optax.sgd(1.0) if server_optim is None else server_optim
        self.server = OptaxServer(server_optim)
