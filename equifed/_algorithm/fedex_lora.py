"""FedEx-LoRA: the mean of adapters, and what it misses."""

from .._check import checked
from .._client import LocalSGD
from .._optim import OptimLike
from .._types import Loss
from ..data import AbstractBatching
from .adapters import _AbstractOfProducts, deltas_of, OfAdapters, with_adapters


class FedExLoRA(_AbstractOfProducts):
    r"""Exact aggregation of adapters: what the mean of $A$ and $B$ misses is added to
    the frozen weights.

    Clients train the adapters of $W + s B A$, with $s = \alpha / r$. The server takes
    the means of both, weighed by the numbers of examples $p_i$, and moves $W$ by the
    rest of the mean product:

    $$A \leftarrow \sum_i p_i A_i, \quad B \leftarrow \sum_i p_i B_i, \quad
    W \leftarrow W + s \Big( \sum_i p_i B_i A_i - B A \Big),$$

    so that the new model is the mean of the clients' models, in each adapted layer.

    The server keeps the sum of what it moved $W$ by, in the adapters' dtype, and sends
    it; `bits_down` counts it as the dense matrix that it is here. The paper sends the
    two factors of a round's rest, of rank at most $r$ times one more than the number
    of clients.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].

    The model has adapters by [`equifed.nn.lora`][], which are what is shared:
    `roles=equifed.roles(model, shared=equifed.nn.adapters)`.

    ??? cite "Reference"

        [FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Large
        Language Models](https://arxiv.org/abs/2410.09432)

        ```bibtex
        @inproceedings{singhal2025fedex,
            title={{FedEx-LoRA}: {E}xact {A}ggregation for {F}ederated and {E}fficient
                   {F}ine-{T}uning of {L}arge {L}anguage {M}odels},
            author={Singhal, Raghav and Ponkshe, Kaustubh and Vepakomma, Praneeth},
            booktitle={ACL},
            year={2025},
        }
        ```
    """

    client: OfAdapters
    takes_ranks = False

    @checked()
    def __init__(self, loss: Loss, client_optim: OptimLike, batching: AbstractBatching):
        self.client = OfAdapters(LocalSGD(loss, client_optim, batching))

    def after(self, params, change, mean):
        params = with_adapters(params, mean.payload)
        missed = zip(change, mean.deltas, deltas_of(params), strict=True)
        return params, tuple(c + products - own for c, products, own in missed)
