"""FedRep: a head of one's own, learnt to the end, and then the shared body."""

import optax

from .._aggregator import AbstractAggregator, UniformMean
from .._check import checked
from .._client.alternating import Alternating
from .._optim import OptimLike
from .._server import OptaxServer
from .._types import Loss
from ..data import AbstractBatching
from .one_pass import AbstractOnePass


class FedRep(AbstractOnePass):
    r"""Shared representations: each client first learns its head, then the body.

    In a round client $i$ takes many steps on its head $h_i$ with the server's body
    $\phi$ as it is, and then few on the body with that head; the server takes the plain
    mean of the bodies:

    $$h_i \leftarrow \operatorname{SGD}_\tau(h_i; \phi), \quad
    \phi_i \leftarrow \operatorname{SGD}(\phi; h_i), \quad
    \phi \leftarrow \frac{1}{|S|} \sum_{i \in S} \phi_i.$$

    The heads are what [`equifed.roles`][] makes personal.

    **Arguments:**

    - `loss`, `client_optim`, `batching`, `server_optim`: as in [`equifed.FedAvg`][].
    - `personal_optim`: the optimiser of the personal leaves; `client_optim` if not
        given.
    - `personal_parts`, `shared_parts`: how a client's planned steps are parted. Of
        every $a + b$ the first $a$ are for its personal leaves: with
        `Epochs(a + b, ...)` these are $a$ epochs.
        By default ten epochs on the head and one on the body, if `batching` is
        `Epochs(11, ...)`.
    - `aggregator`: [`equifed.UniformMean`][] if not given, as in the paper.

    ??? cite "Reference"

        [Exploiting Shared Representations for Personalized Federated
        Learning](https://arxiv.org/abs/2102.07078)

        ```bibtex
        @inproceedings{collins2021exploiting,
            title={{E}xploiting {S}hared {R}epresentations for {P}ersonalized
                   {F}ederated {L}earning},
            author={Collins, Liam and Hassani, Hamed and Mokhtari, Aryan and Shakkottai,
                    Sanjay},
            booktitle={ICML},
            year={2021},
        }
        ```
    """

    client: Alternating
    aggregator: AbstractAggregator
    server: OptaxServer
    needs = ("personal",)

    @checked()
    def __init__(
        self,
        loss: Loss,
        client_optim: OptimLike,
        batching: AbstractBatching,
        *,
        personal_optim: OptimLike | None = None,
        personal_parts: int = 10,
        shared_parts: int = 1,
        server_optim: OptimLike | None = None,
        aggregator: AbstractAggregator | None = None,
    ):
        self.client = Alternating(
            loss,
            client_optim if personal_optim is None else personal_optim,
            client_optim,
            batching,
            personal_parts=personal_parts,
            shared_parts=shared_parts,
        )
        self.aggregator = UniformMean() if aggregator is None else aggregator
        self.server = OptaxServer(
            optax.sgd(1.0) if server_optim is None else server_optim
        )
