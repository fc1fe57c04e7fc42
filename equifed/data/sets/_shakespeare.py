"""Shakespeare by role: the next character, in two forms.

LEAF gives 80 characters and the one that follows. TensorFlow Federated and FedJAX have
what a role says in pieces, put end to end and cut into sequences, of which every
character is predicted from those before.
"""

import numpy as np
from jaxtyping import Int

from ..._check import check_count, checked
from .._dataset import FederatedDataset
from .._vocabulary import Vocabulary
from ._cite import card, LEAF
from ._load import Files, load, place
from ._text import check_characters, texts_of


card(
    "shakespeare",
    source="https://huggingface.co/datasets/flwrlabs/shakespeare",
    licence="BSD 2-Clause, of LEAF, which made the set",
    bibtex=LEAF,
)

_LENGTH = 80


@checked()
def shakespeare(
    *,
    vocabulary: Vocabulary | None = None,
    data_files: Files | None = None,
    streaming: bool = False,
) -> FederatedDataset:
    """Shakespeare by role, of LEAF: 80 characters, and the one that follows.

    Loads `flwrlabs/shakespeare`: 4.2 million examples, which has no test set. The
    examples of a role overlap and are in order; a random split would show nearly all
    of the test examples in training.

    **Arguments:**

    - `vocabulary`: Of characters; by default
        [`equifed.data.Vocabulary.shakespeare`][].
    - `data_files`: Copies of the set's files, which are read instead.
    - `streaming`: Whether to read the files without making `datasets`' own copy.

    **Returns:**

    A dataset with the columns `x` (`int32`, rows of 80) and `y` (`int32`).

    **Raises:**

    `ValueError` if an example has not 80 characters and one, with its place; or if the
    vocabulary is one of words.
    """
    vocabulary = Vocabulary.shakespeare() if vocabulary is None else vocabulary
    check_characters(vocabulary)
    rows = load(
        "flwrlabs/shakespeare",
        {"character_id": "text", "x": "text", "y": "text"},
        split="train",
        data_files=data_files,
        streaming=streaming,
        csv={"keep_default_na": False},  # a role may say `NA`
    )
    dataset = FederatedDataset.from_huggingface(
        rows, by="character_id", columns=["x", "y"]
    )
    x = _numbers(dataset, "x", _LENGTH, vocabulary)
    y = _numbers(dataset, "y", 1, vocabulary)[:, 0]
    return dataset.map(lambda _: {"x": x, "y": y})


def _numbers(
    dataset: FederatedDataset, column: str, length: int, vocabulary: Vocabulary
) -> Int[np.ndarray, "examples length"]:
    texts = texts_of(dataset, column)
    for row, text in enumerate(texts):
        if len(text) != length:
            raise ValueError(
                f"Column {column!r} must hold {length} characters, got {len(text)} in "
                f"{place(dataset, row)}; it is not the set expected."
            )
    out = np.empty((len(texts), length), np.int32)
    known: dict[int, int] = {}
    for start in range(0, len(texts), 2**16):  # each character takes four bytes
        part = "".join(texts[start : start + 2**16])
        codes = np.frombuffer(part.encode("utf-32-le", "surrogatepass"), np.uint32)
        for code in np.unique(codes).tolist():
            if code not in known:
                known[code] = int(vocabulary.encode(chr(code))[0])
        table = np.zeros(max(known) + 1, np.int32)
        table[list(known)] = list(known.values())
        out[start : start + 2**16] = table[codes].reshape(-1, length)
    return out


@checked(dataset="Read one with `from_fedjax_sqlite` or `from_tff_sqlite`.")
def character_chunks(
    dataset: FederatedDataset,
    *,
    length: int = 80,
    vocabulary: Vocabulary | None = None,
    column: str = "snippets",
) -> FederatedDataset:
    """What each client says as sequences of characters, and of those that follow.

    Each text is given its beginning and its end, and all of a client's are put end to
    end. `x` is all but the last number of that and `y` all but the first, both cut into
    rows of `length`, the last of which is padded. That is FedJAX's Shakespeare.

    !!! example

        ```python
        clients = eqf.data.from_fedjax_sqlite("shakespeare_train.sqlite")
        clients = eqf.data.sets.character_chunks(clients)
        ```

    **Arguments:**

    - `dataset`: The clients.
    - `length`: The length of a sequence.
    - `vocabulary`: Of characters; by default
        [`equifed.data.Vocabulary.shakespeare`][].
    - `column`: The column of texts.

    **Returns:**

    A dataset with the columns `x` and `y` (`int32`, rows of `length`).
    """
    check_count("length", length)
    vocabulary = Vocabulary.shakespeare() if vocabulary is None else vocabulary
    check_characters(vocabulary)
    texts = texts_of(dataset, column)

    def chunked(client_id, examples):
        start = dataset.offsets[dataset.index(client_id)]
        own = texts[start : start + len(examples[column])]
        return _chunks(own, length, vocabulary)

    return dataset.select_columns([column]).map_clients(chunked)


def _chunks(
    texts: list[str], length: int, vocabulary: Vocabulary
) -> dict[str, Int[np.ndarray, "chunks length"]]:
    pieces = [np.empty(0, np.int32)]
    for text in texts:
        pieces += [[vocabulary.bos], vocabulary.encode(text), [vocabulary.eos]]
    joined = np.concatenate(pieces)
    rows = -(-max(0, len(joined) - 1) // length)
    out = {}
    for name, ids in (("x", joined[:-1]), ("y", joined[1:])):
        padded = np.full(rows * length, vocabulary.pad, np.int32)
        padded[: len(ids)] = ids
        out[name] = padded.reshape(rows, length)
    return out
