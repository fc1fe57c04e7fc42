"""EMNIST by writer: handwritten letters and digits, with the people who wrote them."""

import re

import numpy as np

from ..._check import checked
from ..._words import shown
from .._dataset import FederatedDataset
from ._cite import card, LEAF
from ._load import Files, images, labels, load


card(
    "emnist",
    source="https://huggingface.co/datasets/flwrlabs/femnist",
    licence="BSD 2-Clause, of LEAF, which made the set; the images are of NIST",
    bibtex=LEAF
    + """
@inproceedings{cohen2017emnist,
  title={{EMNIST}: Extending {MNIST} to handwritten letters},
  author={Cohen, Gregory and Afshar, Saeed and Tapson, Jonathan and
    van Schaik, Andr{\\'e}},
  booktitle={International Joint Conference on Neural Networks (IJCNN)},
  year={2017},
}
""",
)

_COLUMNS = {"image": "image", "writer_id": "text", "character": "integers"}
_WRITER = re.compile(r"(?:[0-9a-f]{16}:)?f([0-9]{4})_[0-9]{2}")


@checked()
def emnist(
    *,
    only_digits: bool = False,
    data_files: Files | None = None,
    streaming: bool = False,
) -> FederatedDataset:
    """EMNIST by writer, of LEAF: 62 characters, or the 10 digits, and about 3,600
    people.

    Loads `flwrlabs/femnist`, which has no test set: `split_examples(0.1)` makes one of
    each writer's examples. FedJAX's and TensorFlow Federated's files, which have one,
    and 3,400 of the writers, are read by [`equifed.data.from_fedjax_sqlite`][] and
    [`equifed.data.from_tff_sqlite`][].

    **Arguments:**

    - `only_digits`: Whether to keep the digits alone, and those who wrote any.
    - `data_files`: Copies of the set's files, which are read instead.
    - `streaming`: Whether to read the files without making `datasets`' own copy.

    **Returns:**

    A dataset with the columns `x` (`float32`, 28x28x1; 1 minus the pixels divided by
    255, so that paper is 0 and ink is 1), `y` (`int32`, 0 to 61: the digits, the upper
    and the lower case) and `domain_id` (`int32`: see
    [`equifed.data.sets.emnist_domain`][]).

    **Raises:**

    `ValueError` if the set has other columns than it is to have, a label that is none,
    or a writer without a number.
    """
    rows = load(
        "flwrlabs/femnist",
        _COLUMNS,
        split="train",
        data_files=data_files,
        streaming=streaming,
    )
    dataset = FederatedDataset.from_huggingface(
        rows, by="writer_id", columns=["image", "character"]
    )
    characters = labels(dataset, "character", 62)
    domains = np.array([emnist_domain(c) for c in dataset.client_ids], np.int32)
    owners = np.repeat(domains, dataset.client_sizes)
    kept = characters < 10 if only_digits else np.ones(len(characters), bool)
    pixels = images(dataset, "image", (28, 28, 1))
    dataset = dataset.map(lambda _: {"x": pixels, "y": characters, "domain_id": owners})
    if only_digits:
        dataset = dataset._keep(kept).filter(min_examples=1)
    return dataset.map(lambda columns: {**columns, "x": _ink(columns["x"])})


def _ink(pixels: np.ndarray) -> np.ndarray:
    return np.float32(1) - pixels.astype(np.float32) / np.float32(255)


@checked()
def emnist_domain(client_id: str) -> int:
    """Where a writer of EMNIST was found: 0 in a high school, 1 in the Census Bureau.

    Writers 2100 to 2599 are the pupils.

    **Arguments:**

    - `client_id`: Such as `"f2100_45"`, also with the 16 hexadecimal digits and the
        colon in front that FedJAX puts there.

    **Raises:**

    `ValueError` if it is no such id.
    """
    match = _WRITER.fullmatch(client_id)
    if match is None:
        raise ValueError(
            "`client_id` must be a writer of EMNIST such as 'f2100_45', got "
            f"{shown(client_id)}."
        )
    return 0 if 2100 <= int(match[1]) <= 2599 else 1
