"""FLoRA: adapters that are stacked rather than averaged."""

from .._check import checked
from .._client import LocalSGD
from .._optim import OptimLike
from .._types import Loss
from ..data import AbstractBatching
from .adapters import _AbstractOfProducts, OfAdapters


class FLoRA(_AbstractOfProducts):
    r"""Stacked adapters: the frozen weights move by the mean of the clients' products.

    Each client begins a round with adapters of its own, a random $A_i$ and $B_i = 0$,
    and trains them. The server stacks what comes back, weighed by the numbers of
    examples $p_i$, to adapters of the rank $\sum_i r_i$, whose product goes to the
    weights:

    $$W \leftarrow W + s [p_1 B_1, p_2 B_2, \dots] [A_1; A_2; \dots]
    = W + s \sum_i p_i B_i A_i.$$

    So there is no error of aggregation, and no adapter is left after a round: in the
    model that is evaluated $B$ is 0, and $W$ has moved. $A_i$ is drawn from the
    client's key, as [`equifed.nn.lora`][] draws it.

    Clients may have ranks of their own: an integer `info["rank"]` of the cohort, at
    most that of the layers (`Loader(info=lambda round, clients: {"rank": ...})`). The
    scale is the layer's $s = \alpha / r$ for all of them.

    The server keeps the sum of the products, in the adapters' dtype, and sends it;
    `bits_down` counts it, and adapters that clients do not read. The paper sends the
    stack, which is smaller as long as $\sum_i r_i$ is small.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].

    The model has adapters by [`equifed.nn.lora`][], which are what is shared:
    `roles=equifed.roles(model, shared=equifed.nn.adapters)`.

    ??? cite "Reference"

        [FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank
        Adaptations](https://arxiv.org/abs/2409.05976)

        ```bibtex
        @inproceedings{wang2024flora,
            title={{FLoRA}: {F}ederated {F}ine-{T}uning {L}arge {L}anguage {M}odels
                   with {H}eterogeneous {L}ow-{R}ank {A}daptations},
            author={Wang, Ziyao and Shen, Zheyu and He, Yexiao and Sun, Guoheng and
                    Wang, Hongyi and Lyu, Lingjuan and Li, Ang},
            booktitle={NeurIPS},
            year={2024},
        }
        ```
    """

    client: OfAdapters

    @checked()
    def __init__(self, loss: Loss, client_optim: OptimLike, batching: AbstractBatching):
        self.client = OfAdapters(LocalSGD(loss, client_optim, batching), fresh=True)

    def after(self, params, change, mean):
        pairs = zip(change, mean.deltas, strict=True)
        return params, tuple(c + products for c, products in pairs)
