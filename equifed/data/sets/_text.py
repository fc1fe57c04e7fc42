"""From text to the numbers of a vocabulary.

Characters or words, which of the two is the vocabulary's: one of the other kind would
make nearly everything a word that it does not know, and is refused.
"""

import collections

import numpy as np
from jaxtyping import Int, Shaped

from ..._check import check_count, check_kind, checked
from ..._words import shown
from .._column import check_names
from .._dataset import FederatedDataset
from .._vocabulary import Vocabulary
from ._load import place


def check_characters(vocabulary: Vocabulary) -> None:
    """Refuses a vocabulary of words."""
    words = [symbol for symbol in vocabulary.symbols if len(symbol) > 1]
    if words:
        raise ValueError(
            "`vocabulary` must have characters as its symbols, got one with "
            f"{shown(words[0])}. Write `Vocabulary.shakespeare()`, or `Vocabulary` of "
            "a text."
        )


def check_words(vocabulary: Vocabulary) -> None:
    """Refuses a vocabulary of characters, and words that no text has."""
    symbols = vocabulary.symbols
    if all(len(symbol) == 1 for symbol in symbols):
        raise ValueError(
            "`vocabulary` must have words as its symbols, got one of characters, "
            f"{vocabulary}. Write `word_vocabulary(dataset, 10_000)`."
        )
    wrong = [symbol for symbol in symbols if symbol.split() != [symbol]]
    if wrong:
        raise ValueError(
            "`vocabulary` must have words as its symbols, without spaces in them, got "
            f"{shown(wrong[0])}."
        )


def texts_of(dataset: FederatedDataset, column: str) -> list[str]:
    """The texts of a column, of all clients."""
    check_kind("column", column, str)
    check_names([column], dataset.columns)
    values = np.asarray(dataset.columns[column])
    if values.ndim != 1 or values.dtype.kind not in "OSU":
        raise ValueError(
            f"Column {column!r} must hold one text for each example, got "
            f"{values.dtype} of shape {values.shape[1:]}."
        )
    return [as_text(value, dataset, column, row) for row, value in enumerate(values)]


def as_text(value: object, dataset: FederatedDataset, column: str, row: int) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Column {column!r} has bytes that are no UTF-8 in "
                f"{place(dataset, row)}. Mend that text, or leave it out."
            ) from error
    if not isinstance(value, str):
        raise ValueError(
            f"Column {column!r} must hold text, got {shown(value)} in "
            f"{place(dataset, row)}."
        )
    return value


@checked(dataset="Build one with `FederatedDataset.from_huggingface` or its siblings.")
def word_vocabulary(
    dataset: FederatedDataset,
    num_words: int,
    *,
    column: str = "text",
    num_oov: int = 1,
) -> Vocabulary:
    """The most frequent words of all clients' texts, the most frequent first.

    Words are what is between spaces. Of equally frequent ones the first in the order of
    their characters comes first.

    **Arguments:**

    - `dataset`: The clients, of training data.
    - `num_words`: The most words; there may be fewer in the texts.
    - `column`: The column of texts.
    - `num_oov`: How many numbers there are for other words.
    """
    check_count("num_words", num_words)
    counts = collections.Counter()
    for text in texts_of(dataset, column):
        counts.update(text.split())
    if not counts:
        raise ValueError(f"Column {column!r} has no word in it.")
    words = sorted(counts, key=lambda word: (-counts[word], word))
    return Vocabulary(words[:num_words], num_oov=num_oov)


@checked(dataset="Build one with `FederatedDataset.from_huggingface` or its siblings.")
def next_words(
    dataset: FederatedDataset,
    vocabulary: Vocabulary,
    *,
    max_length: int = 20,
    column: str = "text",
) -> FederatedDataset:
    """Texts as sequences of words, and of the words that follow.

    Of the beginning, the words and the end, `x` is all but the last and `y` all but the
    first; both are cut after `max_length` numbers, or padded to as many. So a text of
    `max_length` words or more has no end, and what its last words were is not asked.

    **Arguments:**

    - `dataset`: The clients.
    - `vocabulary`: Of words, such as that of
        [`equifed.data.sets.word_vocabulary`][].
    - `max_length`: The length of a sequence.
    - `column`: The column of texts, with spaces between words.

    **Returns:**

    The dataset with the columns `x` and `y` (`int32`, rows of `max_length`) and, of the
    others, those of numbers.
    """
    check_count("max_length", max_length)
    x, y = (
        np.full((dataset.num_examples, max_length), vocabulary.pad, np.int32)
        for _ in range(2)
    )
    begin, end = [vocabulary.bos], [vocabulary.eos]
    for row, ids in enumerate(_ids(dataset, vocabulary, column)):
        whole = np.concatenate([begin, ids, end])
        before, after = whole[:-1][:max_length], whole[1:][:max_length]
        x[row, : len(before)] = before
        y[row, : len(after)] = after
    return _with(dataset, column, x=x, y=y)


@checked(dataset="Build one with `FederatedDataset.from_huggingface` or its siblings.")
def padded_words(
    dataset: FederatedDataset,
    vocabulary: Vocabulary,
    *,
    max_length: int,
    column: str = "text",
) -> FederatedDataset:
    """Texts as sequences of words, to be told apart as a whole.

    **Arguments:**

    - `dataset`: The clients.
    - `vocabulary`: Of words, such as that of
        [`equifed.data.sets.word_vocabulary`][].
    - `max_length`: The length of a sequence: longer ones are cut, shorter ones padded.
    - `column`: The column of texts, with spaces between words.

    **Returns:**

    The dataset with the column `x` (`int32`, rows of `max_length`) and, of the others,
    those of numbers.
    """
    check_count("max_length", max_length)
    x = np.full((dataset.num_examples, max_length), vocabulary.pad, np.int32)
    for row, ids in enumerate(_ids(dataset, vocabulary, column)):
        x[row, : min(len(ids), max_length)] = ids[:max_length]
    return _with(dataset, column, x=x)


def _ids(
    dataset: FederatedDataset, vocabulary: Vocabulary, column: str
) -> list[Int[np.ndarray, " words"]]:
    check_words(vocabulary)
    return [vocabulary.encode(text.split()) for text in texts_of(dataset, column)]


def _with(
    dataset: FederatedDataset, column: str, **new: Shaped[np.ndarray, "examples ..."]
) -> FederatedDataset:
    kept = {
        name: values
        for name, values in dataset.columns.items()
        if name != column and values.dtype.kind in "biuf"
    }
    return dataset._with({**kept, **new}, dataset.offsets, dataset.client_ids)
