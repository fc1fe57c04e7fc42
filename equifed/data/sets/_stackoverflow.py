"""Stack Overflow by user: the next word of what is asked and answered there."""

import numpy as np

from ..._check import check_count, checked
from ..._words import shown
from .._dataset import FederatedDataset
from .._vocabulary import Vocabulary
from ._cite import card
from ._load import Files, load, place
from ._text import check_words, next_words, texts_of


card(
    "stackoverflow",
    source="https://www.tensorflow.org/federated/api_docs/python/tff/simulation/"
    "datasets/stackoverflow",
    licence="CC BY-SA 3.0, of Stack Overflow",
    bibtex="""
@misc{tff2019stackoverflow,
  title={{TensorFlow Federated} {Stack Overflow} dataset},
  author={{The TensorFlow Federated Authors}},
  year={2019},
}
""",
)

_TYPES = {"question": 0, "answer": 1}


@checked(vocabulary="Write `word_vocabulary(dataset, 10_000, column='tokens')`.")
def stackoverflow(
    data_files: Files,
    vocabulary: Vocabulary,
    *,
    max_length: int = 20,
    streaming: bool = False,
) -> FederatedDataset:
    """Stack Overflow by user, of TensorFlow Federated: sequences of words, and of those
    that follow, as [`equifed.data.sets.next_words`][] makes them.

    Nobody publishes the set at Hugging Face in this form. TensorFlow Federated's file
    has it, which is written down once as parquet:

    ```python
    clients = eqf.data.from_tff_sqlite(
        "stackoverflow.sqlite", split="train", columns=["tokens", "type"]
    )
    clients.to_parquet("stackoverflow.parquet", by="client_id")
    ```

    The 10,000 words of the papers are the most frequent ones of the training split,
    as [`equifed.data.sets.word_vocabulary`][] finds them. Which of several buckets a
    word that is none of them falls into is not what TensorFlow says: see
    [`equifed.data.Vocabulary`][].

    **Arguments:**

    - `data_files`: Files with the columns `client_id`, `tokens` (words with spaces
        between) and `type` (`question` or `answer`).
    - `vocabulary`: Of words.
    - `max_length`: The length of a sequence.
    - `streaming`: Whether to read the files without making `datasets`' own copy.

    **Returns:**

    A dataset with the columns `x` and `y` (`int32`, rows of `max_length`) and
    `domain_id` (`int32`: 0 for a question, 1 for an answer).

    **Raises:**

    `ValueError` if a type is neither, with its place; or if the vocabulary is one of
    characters.
    """
    check_count("max_length", max_length)
    check_words(vocabulary)
    columns = {"client_id": "text", "tokens": "text", "type": "text"}
    rows = load(
        "stackoverflow",
        columns,
        split="train",
        data_files=data_files,
        streaming=streaming,
    )
    dataset = FederatedDataset.from_huggingface(
        rows, by="client_id", columns=["tokens", "type"]
    )
    domains = np.empty(dataset.num_examples, np.int32)
    for row, kind in enumerate(texts_of(dataset, "type")):
        if kind not in _TYPES:
            raise ValueError(
                "Column 'type' must hold 'question' or 'answer', got "
                f"{shown(kind)} in {place(dataset, row)}."
            )
        domains[row] = _TYPES[kind]
    dataset = dataset.map(lambda c: {"tokens": c["tokens"], "domain_id": domains})
    return next_words(dataset, vocabulary, max_length=max_length, column="tokens")
