"""Texts as tokens of a language model, packed into sequences of one length.

A sequence may hold several documents: `document` says which of them a token is of, so
that a model sees them apart, and `y` is -1 where nothing is asked: at padding, behind
the end of a document, and in what is not to be learned. Of a
tokeniser's numbers each means something, 0 too, so that none of them can mark it.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..._check import check_count, checked
from ..._warn import warn
from ..._words import shown
from .._arrays import check_columns, check_function
from .._dataset import FederatedDataset
from ._load import place
from ._packing import check_known, chunks, Document, encoder, in_rows, NOT_ASKED, packed
from ._text import texts_of


Pieces: TypeAlias = Sequence[tuple[str, bool]]


@checked(dataset="Build one with `FederatedDataset.from_huggingface` or its siblings.")
def token_chunks(
    dataset: FederatedDataset,
    tokenizer: Any,
    *,
    length: int,
    end: int,
    column: str = "text",
    vocab_size: int | None = None,
) -> FederatedDataset:
    """What each client wrote as sequences of tokens, and of those that follow.

    Each text is a document, of which every token but the first is asked, and its end.
    All of a client's are put end to end and cut into rows of `length`, the last of
    which is padded; what was cut goes on in the next row, and no token is lost.

    !!! example

        ```python
        tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
        clients = eqf.data.sets.token_chunks(clients, tokenizer, length=128, end=2)

        def loss(model, example, key):
            logits = model(example["x"], documents=example["document"])
            tokens = eqf.token_cross_entropy(logits, example["y"], masked=(-1,))
            return tokens.total / example["y"].size, {"token_loss": tokens}
        ```

    **Arguments:**

    - `dataset`: The clients.
    - `tokenizer`: One of the library `tokenizers`, or a [`equifed.data.Vocabulary`][]
        of characters.
    - `length`: The length of a sequence, at most what the model takes.
    - `end`: The token that ends a document; it pads `x` as well.
    - `column`: The column of texts.
    - `vocab_size`: How many tokens the model knows, if that is not the tokeniser's
        number: `model.config.vocab_size`.

    **Returns:**

    A dataset with the columns `x`, `y` and `document` (`int32`, rows of `length`). `y`
    is -1 where nothing is asked; documents are counted from 1 in each row, and padding
    is of document 0.

    **Raises:**

    `ValueError` or `TypeError` if the column holds no text, `end` is no token, or a
    text has a token that the model does not know, with its place.
    """
    check_count("length", length)
    encode, size = encoder(tokenizer, vocab_size)
    check_count("end", end, least=0, most=size - 1)
    documents = []
    for row, ids in enumerate(encode(texts_of(dataset, column))):
        check_known(ids, size, dataset, row)
        asked = np.append(ids[1:], [end]) if len(ids) else ids
        documents.append(Document(ids, asked.astype(np.int32)))

    def rows(own):
        return chunks(own, length, end)

    return packed(dataset, documents, rows)


@checked(dataset="Build one with `FederatedDataset.from_huggingface` or its siblings.")
def instructions(
    dataset: FederatedDataset,
    tokenizer: Any,
    template: Callable[[dict[str, str]], Pieces],
    *,
    columns: Sequence[str],
    length: int,
    end: int,
    pack: bool = True,
    vocab_size: int | None = None,
) -> FederatedDataset:
    """Instructions and answers as sequences of tokens, of which the answers are asked.

    One that is longer than `length` is cut at its end. That is counted, in the column
    `cut`, and a warning says of how many examples; one whose answer is cut off as a
    whole asks for nothing.

    !!! example

        ```python
        clients = eqf.data.sets.instructions(
            clients, tokenizer, eqf.data.sets.chat_ml("instruction", "response"),
            columns=["instruction", "response"], length=512, end=2,
        )
        ```

    **Arguments:**

    - `dataset`: The clients, of one example for each instruction.
    - `tokenizer`: As for [`equifed.data.sets.token_chunks`][]. Pieces are tokenised
        one by one, so that where an answer begins is a token's beginning too.
    - `template`: Takes an example's texts by column, and returns what the model is to
        read as pieces: pairs of a text and of whether it is asked. That of many
        models is [`equifed.data.sets.chat_ml`][], and of conversations of several turns
        [`equifed.data.sets.chat_ml_messages`][].
    - `columns`: The columns of texts that it is given.
    - `length`: The length of a sequence, at most what the model takes.
    - `end`: The token that pads `x`.
    - `pack`: Whether a sequence may hold several examples: each goes into the row of
        the one before it if it fits. They stay apart, see `document`.
    - `vocab_size`: As for [`equifed.data.sets.token_chunks`][].

    **Returns:**

    A dataset with the columns `x`, `y` and `document` as those of
    [`equifed.data.sets.token_chunks`][], and `cut` (`int32`): how many tokens of a
    row's examples were cut off.

    **Raises:**

    `ValueError` or `TypeError` if a column holds no text, the template returns no
    pieces, or asks nothing in any example, `end` is no token, or an example has one
    that the model does not know; with the client and the example.
    """
    check_count("length", length)
    columns = check_columns("columns", columns)
    check_function("template", template)
    encode, size = encoder(tokenizer, vocab_size)
    check_count("end", end, least=0, most=size - 1)
    texts = {name: texts_of(dataset, name) for name in columns}
    pieces = []
    for row in range(dataset.num_examples):
        try:
            own = template({name: values[row] for name, values in texts.items()})
        except Exception as error:
            error.add_note(f"It was raised for {place(dataset, row)}.")
            raise
        pieces.append(_pieces(own, dataset, row))
    ids = iter(encode([text for own in pieces for text, _ in own]))
    documents = []
    for row, own in enumerate(pieces):
        parts = [(next(ids), asked) for _, asked in own]
        for part, _ in parts:
            check_known(part, size, dataset, row)
        documents.append(_document(parts, length))
    _tell(documents)

    def rows(own):
        return in_rows(own, length, end, pack=pack)

    return packed(dataset, documents, rows)


def _pieces(own: Any, dataset: FederatedDataset, row: int) -> Pieces:
    right = isinstance(own, Sequence) and not isinstance(own, str) and len(own) > 0
    if not right or not all(
        isinstance(x, Sequence)
        and len(x) == 2
        and isinstance(x[0], str)
        and isinstance(x[1], bool)
        for x in own
    ):
        raise TypeError(
            "`template` must return pairs of a text and of whether it is asked, "
            f"[('Q: ...', False), ('A: ...', True)] say, got {shown(own)} for "
            f"{place(dataset, row)}."
        )
    return own


def _document(parts: list[tuple[np.ndarray, bool]], length: int) -> Document:
    """All but the last of the pieces' tokens, and all but the first as targets."""
    ids = np.concatenate([x for x, _ in parts]).astype(np.int32)
    asked = np.concatenate([np.full(len(x), asked) for x, asked in parts])
    y = np.where(asked, ids, NOT_ASKED)[1:].astype(np.int32)
    return Document(ids[:-1][:length], y[:length], max(0, len(y) - length))


def _tell(documents: list[Document]) -> None:
    cut = [x for x in documents if x.cut]
    mute = [x for x in documents if not (x.y != NOT_ASKED).any()]
    if cut:
        tokens = sum(x.cut for x in cut)
        warn(
            f"{len(cut)} of {len(documents)} examples are longer than `length`, and "
            f"{tokens} tokens were cut off; of {sum(x.cut > 0 for x in mute)} nothing "
            "is left that is asked. Column 'cut' has the numbers. Give a larger "
            "`length`, or leave them out."
        )
    if len(mute) == len(documents) and not cut:
        raise ValueError(
            f"Nothing is asked in any of the {len(documents)} examples, so that there "
            "is nothing to learn. What `template` returns as (text, True) is asked, "
            "but for a first token that nothing stands before."
        )
    if empty := [x for x in mute if not x.cut]:
        warn(
            f"Of {len(empty)} of {len(documents)} examples nothing is asked: their "
            "answers are empty. Leave them out."
        )
