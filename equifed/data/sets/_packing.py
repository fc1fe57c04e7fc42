"""Documents of tokens in rows of one length."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int

from ..._check import check_count
from ..._words import shown
from .._dataset import FederatedDataset
from .._vocabulary import Vocabulary
from ._load import place
from ._text import check_characters


NOT_ASKED = -1


@dataclasses.dataclass(frozen=True)
class Document:
    """The inputs, the targets, and how many tokens were cut off."""

    x: Int[np.ndarray, " tokens"]
    y: Int[np.ndarray, " tokens"]
    cut: int = 0


Encode: TypeAlias = Callable[[list[str]], Iterable[Int[np.ndarray, " tokens"]]]


def encoder(tokenizer: Any, vocab_size: int | None) -> tuple[Encode, int]:
    """What makes numbers of texts, and how many numbers there are to the model."""
    if vocab_size is not None:
        check_count("vocab_size", vocab_size)
    if isinstance(tokenizer, Vocabulary):
        check_characters(tokenizer)
        return lambda texts: map(tokenizer.encode, texts), vocab_size or tokenizer.size
    if not callable(getattr(tokenizer, "encode_batch", None)):
        raise TypeError(
            "`tokenizer` must be a `tokenizers.Tokenizer` or a `Vocabulary` of "
            f"characters, got {shown(tokenizer)}. One of `transformers` has the former "
            "as its `backend_tokenizer`."
        )

    def encode(texts):
        for found in tokenizer.encode_batch(texts, add_special_tokens=False):
            yield np.array(found.ids, np.int32)

    return encode, vocab_size or tokenizer.get_vocab_size()


def check_known(
    ids: Int[np.ndarray, " tokens"], size: int, dataset: FederatedDataset, row: int
) -> None:
    """Refuses tokens that a model of so many does not know."""
    if len(ids) and ids.max() >= size:
        raise ValueError(
            f"A model of {size} tokens knows 0 to {size - 1}, got {ids.max()} in "
            f"{place(dataset, row)}. Take the tokeniser that it was trained with."
        )


def packed(
    dataset: FederatedDataset,
    documents: list[Document],
    rows: Callable[[list[Document]], dict[str, np.ndarray]],
) -> FederatedDataset:
    first, *_ = dataset.columns

    def of_client(client_id, examples):
        start = dataset.offsets[dataset.index(client_id)]
        return rows(documents[start : start + len(examples[first])])

    return dataset.select_columns([first]).map_clients(of_client)


def chunks(documents: list[Document], length: int, end: int) -> dict[str, np.ndarray]:
    """All put end to end, and cut into rows."""
    x = np.concatenate([np.empty(0, np.int32), *(d.x for d in documents)])
    y = np.concatenate([np.empty(0, np.int32), *(d.y for d in documents)])
    sizes = [len(d.x) for d in documents]
    number = np.repeat(np.arange(len(documents), dtype=np.int32), sizes)
    rows = -(-len(x) // length)
    shape = (rows, length)
    first = np.repeat(number[::length], length)[: len(number)]
    return {
        "x": _filled(x, end, shape),
        "y": _filled(y, NOT_ASKED, shape),
        "document": _filled(number - first + 1, 0, shape),
    }


def in_rows(
    documents: list[Document], length: int, end: int, *, pack: bool
) -> dict[str, np.ndarray]:
    """Each in the row of the one before it if that is wanted and it fits, else in the
    next."""
    rows: list[list[Document]] = []
    room = 0
    for document in documents:
        if not pack or not rows or len(document.x) > room:
            rows.append([])
            room = length
        rows[-1].append(document)
        room -= len(document.x)
    made = [_row(own, length, end) for own in rows]
    nothing = np.empty((0, length), np.int32)
    out = {
        name: np.concatenate([nothing, *(row[name] for row in made)])
        for name in ("x", "y", "document")
    }
    cut = np.array([sum(d.cut for d in row) for row in rows], np.int32)
    return {**out, "cut": cut}


def _row(documents: list[Document], length: int, end: int) -> dict[str, np.ndarray]:
    """One row, of padding alone if the documents are empty."""
    found = chunks(documents, length, end)
    if len(found["x"]) == 1:
        return found
    fills = {"x": end, "y": NOT_ASKED, "document": 0}
    return {n: np.full((1, length), fill, np.int32) for n, fill in fills.items()}


def _filled(
    ids: Int[np.ndarray, " tokens"], fill: int, shape: tuple[int, int]
) -> Int[np.ndarray, "rows length"]:
    out = np.full(shape, fill, np.int32)
    out.reshape(-1)[: len(ids)] = ids
    return out
