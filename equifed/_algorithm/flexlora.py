"""FlexLoRA: the mean of products, cut into adapters again."""

import jax.numpy as jnp
from jaxtyping import Array

from .._check import checked
from .._client import LocalSGD
from .._optim import OptimLike
from .._types import Loss
from ..data import AbstractBatching
from ..nn import LoRA
from ..nn._lora_layer import layers_of, product_of
from .adapters import _AbstractOfProducts, OfAdapters, with_pairs


class FlexLoRA(_AbstractOfProducts):
    r"""Adapters by the singular vectors of the mean product, for clients of any ranks.

    Client $i$ trains adapters of its rank $r_i$. The server makes the full mean of
    their products by the numbers of examples $p_i$, and decomposes it:

    $$\sum_i p_i B_i A_i = U \Sigma V^\top, \qquad
    B \leftarrow (U \Sigma)_{:, :r}, \quad A \leftarrow (V^\top)_{:r, :},$$

    of which client $i$ is sent the first $r_i$ columns and rows: the best change of its
    rank. What lies beyond the first $r$ singular values is lost. $B$ has all of
    $\Sigma$, with which the slope of $A$ grows from round to round: rates must be
    smaller than where $A$ and $B$ are averaged, or a client becomes non-finite.

    `info["rank"]` of the cohort is $r_i$, at most the layers' $r$ (`Loader(info=lambda
    round, clients: {"rank": ...})`); all have $r$ without it. The scale $\alpha / r$ is
    the layer's. `bits_up` and `bits_down` count adapters of the rank $r$.

    **Arguments:**

    - `loss`, `client_optim`, `batching`: as in [`equifed.FedAvg`][].

    The model has adapters by [`equifed.nn.lora`][], which are what is shared:
    `roles=equifed.roles(model, shared=equifed.nn.adapters)`.

    ??? cite "Reference"

        [Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and
        Client Resources](https://arxiv.org/abs/2402.11505)

        ```bibtex
        @inproceedings{bai2024federated,
            title={{F}ederated {F}ine-tuning of {L}arge {L}anguage {M}odels under
                   {H}eterogeneous {T}asks and {C}lient {R}esources},
            author={Bai, Jiamu and Chen, Daoyuan and Qian, Bingchen and Yao, Liuyi and
                    Li, Yaliang},
            booktitle={NeurIPS},
            year={2024},
        }
        ```
    """

    client: OfAdapters
    moves = False

    @checked()
    def __init__(self, loss: Loss, client_optim: OptimLike, batching: AbstractBatching):
        self.client = OfAdapters(LocalSGD(loss, client_optim, batching))

    def after(self, params, change, mean):
        pairs = zip(layers_of(params), mean.deltas, strict=True)
        return with_pairs(params, (_decomposed(*pair) for pair in pairs)), change


def _decomposed(layer: LoRA, delta: Array) -> tuple[Array, Array]:
    """A and B whose product is nearest to a change of the layer's weight."""
    product = product_of(layer, delta)
    left, values, right = jnp.linalg.svd(product, full_matrices=False)
    rank = layer.rank
    b = left[..., :, :rank] * values[..., None, :rank]
    return right[..., :rank, :], b
