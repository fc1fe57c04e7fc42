"""FedBuff."""

import optax

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked
from .._client import AbstractCorrection, LocalSGD, NoCorrection
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .asynchronous import AbstractAsynchronous
from .one_pass import AbstractOnePass, Algorithm
from .staleness import AbstractStaleness, PolynomialStaleness


class FedBuff(AbstractAsynchronous):
    r"""Buffered asynchronous aggregation: the server steps when $K$ messages are there.

    Clients train all the time. One that began from the server's version $t - \tau$
    sends its change $\Delta_i = \theta_i - x_{t - \tau_i}$ when it is done; once there
    are $K$ in the buffer,

    $$x_{t+1} = x_t + \frac{\eta_g}{K} \sum_{i=1}^K s(\tau_i) \Delta_i, \qquad
    s(\tau) = \frac{1}{\sqrt{1 + \tau}}.$$

    The buffer is the cohort of a round, and its `info["staleness"]` are the $\tau_i$.
    It is divided by the number of messages, as in the paper's Algorithm 1, so that a
    buffer of stale ones makes a shorter step; the paper leaves open whether $s$ is to
    be normalised. See [`equifed.Asynchronous`][] for messages that are too stale, and
    for what is reported.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].
    - `max_staleness`: how many old models are kept.
    - `weight`: $s$; `PolynomialStaleness(0.5)` if not given, as in the paper's
        experiments.
    - `correction`: of the clients' gradients: `Proximal(mu)`, say.
    - `server_optim`: the server's Optax optimiser on minus the mean;
        `optax.sgd(1.0)` if not given. Its learning rate is $\eta_g$.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper. Any other
        is given $s(\tau_i) \Delta_i$: a private mean clips that.

    ??? cite "Reference"

        [Federated Learning with Buffered Asynchronous
        Aggregation](https://arxiv.org/abs/2106.06639), Algorithm 1

        ```bibtex
        @inproceedings{nguyen2022federated,
            title={{F}ederated {L}earning with {B}uffered {A}synchronous
                   {A}ggregation},
            author={Nguyen, John and Malik, Kshitiz and Zhan, Hongyuan and Yousefpour,
                    Ashkan and Rabbat, Mike and Malek, Mani and Huba, Dzmitry},
            booktitle={AISTATS},
            year={2022},
        }
        ```
    """

    algorithm: AbstractOnePass
    max_staleness: int
    weight: AbstractStaleness
    change_from = "old"

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        max_staleness: int,
        weight: AbstractStaleness | None = None,
        correction: AbstractCorrection | None = None,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        correction = NoCorrection() if correction is None else correction
        self.algorithm = Algorithm(
            LocalSGD(loss, client_optim, batching, correction),
            UniformMean() if aggregator is None else aggregator,
            OptaxServer(optax.sgd(1.0) if server_optim is None else server_optim),
        )
        self.max_staleness = max_staleness
        self.weight = PolynomialStaleness(0.5) if weight is None else weight
