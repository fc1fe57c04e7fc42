"""Sentiment140 by user: tweets, and whether they are happy."""

import re
from typing import Literal

import numpy as np

from ..._check import check_choice, checked
from .._dataset import FederatedDataset
from ._cite import card
from ._load import Files, load, place
from ._text import texts_of


card(
    "sent140",
    source="https://huggingface.co/datasets/stanfordnlp/sentiment140",
    licence="unknown: none is given; for academic use, say its makers",
    bibtex="""
@article{go2009twitter,
  title={Twitter Sentiment Classification using Distant Supervision},
  author={Go, Alec and Bhayani, Richa and Huang, Lei},
  journal={CS224N Project Report, Stanford},
  year={2009},
}
""",
)

_FEELINGS = (0, 2, 4)
_URL = re.compile(r"(?:https?://|www\.)\S+")
_USER = re.compile(r"@\w+")
_NUMBER = re.compile(r"[0-9]+(?:[.,:][0-9]+)*")
_TOKENS = re.compile(r"URL|USERNAME|NUMERIC|[^\W\d_]+(?:'[^\W\d_]+)*")


@checked()
def sent140(
    *,
    split: Literal["train", "test"] = "train",
    data_files: Files | None = None,
    streaming: bool = False,
) -> FederatedDataset:
    """Sentiment140 by user: 1.6 million tweets of 660,000 people, most of whom wrote
    one.

    Loads `stanfordnlp/sentiment140`. Texts are in lower case, without punctuation, and
    with `URL`, `USERNAME` and `NUMERIC` for what is such.

    !!! example

        ```python
        clients = eqf.data.sets.sent140().filter(min_examples=30)
        vocabulary = eqf.data.sets.word_vocabulary(clients, 10_000)
        clients = eqf.data.sets.padded_words(clients, vocabulary, max_length=25)
        ```

    **Arguments:**

    - `split`: `"train"` or `"test"`.
    - `data_files`: Copies of the set's files, which are read instead.
    - `streaming`: Whether to read the files without making `datasets`' own copy.

    **Returns:**

    A dataset with the columns `text` (the words, with spaces between) and `y`
    (`int32`: 1 if the sentiment is 4, positive, and 0 if it is 0 or 2).

    **Raises:**

    `ValueError` if a sentiment is none of these, with its place.
    """
    check_choice("split", split, ("train", "test"))
    rows = load(
        "stanfordnlp/sentiment140",
        {"user": "text", "text": "text", "sentiment": "integers"},
        split=split,
        data_files=data_files,
        streaming=streaming,
        revision="refs/convert/parquet",  # the set itself is a program
    )
    dataset = FederatedDataset.from_huggingface(
        rows, by="user", columns=["text", "sentiment"]
    )
    feelings = np.asarray(dataset.columns["sentiment"])
    wrong = np.flatnonzero(~np.isin(feelings, _FEELINGS))
    if len(wrong) > 0:
        raise ValueError(
            f"Column 'sentiment' has the label {feelings[wrong[0]]} in "
            f"{place(dataset, int(wrong[0]))}; labels are 0, 2 and 4."
        )
    texts = np.array([_plain(text) for text in texts_of(dataset, "text")], object)
    y = (feelings == 4).astype(np.int32)
    return dataset.map(lambda _: {"text": texts, "y": y})


def _plain(text: str) -> str:
    text = _USER.sub(" USERNAME ", _URL.sub(" URL ", text.lower()))
    return " ".join(_TOKENS.findall(_NUMBER.sub(" NUMERIC ", text)))
