"""What was not sent is remembered, and sent later.

A biased compressor loses the same part of a message again and again. With a memory at
the sender, what is lost now is added to what comes next.
"""

import equinox as eqx
from jaxtyping import PyTree

from .._check import check_kind
from .._tree import (
    tree_add,
    tree_cast_like,
    tree_sub,
    tree_wide,
    tree_zeros_like,
)
from .base import AbstractCompressor


class _Memory(eqx.Module):
    inner: PyTree
    own: PyTree


def _zeros(payload: PyTree) -> PyTree:
    return tree_wide(tree_zeros_like(payload))


class ErrorFeedback(AbstractCompressor):
    r"""Adds to a message what earlier messages lost.

    With a compressor $C$ and a memory $e$, 0 at first: what is sent is $C(x + e)$, and
    $e \leftarrow x + e - C(x + e)$. For biased compressors, such as
    [`equifed.compress.TopK`][], [`equifed.compress.Sign`][] and
    [`equifed.compress.PowerSGD`][].

    **Arguments:**

    - `compressor`: $C$, any compressor.

    ??? cite "Reference"

        [Error Feedback Fixes SignSGD and other Gradient Compression
        Schemes](https://arxiv.org/abs/1901.09847)
    """

    compressor: AbstractCompressor

    def __check_init__(self):
        check_kind("compressor", self.compressor, AbstractCompressor)

    def init(self, payload):
        zeros = _zeros(payload)
        return _Memory(self.compressor.init(zeros), zeros)

    def compress(self, payload, memory, *, key, round):
        wanted = tree_add(memory.own, payload)
        decoded, inner, sent = self.compressor.compress(
            wanted, memory.inner, key=key, round=round
        )
        # What it loses by being of fewer bits again, at the other end, is in it too.
        decoded = tree_cast_like(decoded, payload)
        return decoded, _Memory(inner, tree_sub(wanted, decoded)), sent


class EF21(AbstractCompressor):
    r"""Sends by how much a message differs from what the other end makes of the last.

    Both ends keep $g$, 0 at first: what is sent is $C(x - g)$, and the message is read
    as $g \leftarrow g + C(x - g)$. In the paper all clients take part in each round,
    and the server keeps the mean of their $g_i$; here it is the mean over those that
    do.

    **Arguments:**

    - `compressor`: $C$, any compressor.

    ??? cite "Reference"

        [EF21: A New, Simpler, Theoretically Better, and Practically Faster Error
        Feedback](https://arxiv.org/abs/2106.05203)

        ```bibtex
        @inproceedings{richtarik2021ef21,
            title={{EF21}: {A} {N}ew, {S}impler, {T}heoretically {B}etter, and
                   {P}ractically {F}aster {E}rror {F}eedback},
            author={Richt{\'a}rik, Peter and Sokolov, Igor and Fatkhullin, Ilyas},
            booktitle={NeurIPS},
            year={2021},
        }
        ```
    """

    compressor: AbstractCompressor

    def __check_init__(self):
        check_kind("compressor", self.compressor, AbstractCompressor)

    def init(self, payload):
        zeros = _zeros(payload)
        return _Memory(self.compressor.init(zeros), zeros)

    def compress(self, payload, memory, *, key, round):
        news = tree_sub(tree_wide(payload), memory.own)
        change, inner, sent = self.compressor.compress(
            news, memory.inner, key=key, round=round
        )
        known = tree_add(memory.own, change)
        return known, _Memory(inner, known), sent
