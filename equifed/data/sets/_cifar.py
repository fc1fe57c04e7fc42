"""CIFAR-10 and CIFAR-100, which have no clients of their own."""

from typing import Literal

from ..._check import check_choice, checked
from .._dataset import FederatedDataset
from .._partition import AbstractPartition, PachinkoPartition, Partitioner
from ._cite import card
from ._load import Files, images, labels, load


_BIBTEX = """
@techreport{krizhevsky2009learning,
  title={Learning Multiple Layers of Features from Tiny Images},
  author={Krizhevsky, Alex},
  institution={University of Toronto},
  year={2009},
}
"""
_UNKNOWN = "unknown: none is given"
for _name in ("cifar10", "cifar100"):
    card(
        _name,
        source=f"https://huggingface.co/datasets/uoft-cs/{_name}",
        licence=_UNKNOWN,
        bibtex=_BIBTEX,
    )

Split = Literal["train", "test"]


@checked(by="Write `DirichletPartition(100, 0.1)`, for example.")
def cifar10(
    by: str | AbstractPartition | Partitioner,
    *,
    split: Split = "train",
    data_files: Files | None = None,
    streaming: bool = False,
) -> FederatedDataset:
    """CIFAR-10: 50,000 training and 10,000 test images of 10 classes.

    Loads `uoft-cs/cifar10`. Images are cropped, flipped and standardised in the loss:
    see [`equifed.nn.random_crop`][].

    !!! example

        ```python
        clients = eqf.data.sets.cifar10(eqf.data.DirichletPartition(100, 0.1))
        ```

    **Arguments:**

    - `by`: Whose an example is: a partition, which reads `label`.
    - `split`: `"train"` or `"test"`.
    - `data_files`: Copies of the set's files, which are read instead.
    - `streaming`: Whether to read the files without making `datasets`' own copy.

    **Returns:**

    A dataset with the columns `x` (`uint8`, 32x32x3) and `y` (`int32`).
    """
    check_choice("split", split, ("train", "test"))
    wanted = {"img": "image", "label": "integers"}
    rows = load(
        "uoft-cs/cifar10",
        wanted,
        split=split,
        data_files=data_files,
        streaming=streaming,
    )
    dataset = FederatedDataset.from_huggingface(rows, by=by, columns=list(wanted))
    x, y = images(dataset, "img", (32, 32, 3)), labels(dataset, "label", 10)
    return dataset.map(lambda _: {"x": x, "y": y})


@checked(by="Write `PachinkoPartition(500)`, for example.")
def cifar100(
    by: str | AbstractPartition | Partitioner | None = None,
    *,
    split: Split = "train",
    data_files: Files | None = None,
    streaming: bool = False,
) -> FederatedDataset:
    """CIFAR-100: 50,000 training and 10,000 test images of 100 classes, which make 20
    coarse ones.

    Loads `uoft-cs/cifar100`. TensorFlow Federated crops images to 24x24 and
    standardises each; in the loss that is `standardize(random_crop(x, 24, key=key))`
    of [`equifed.nn`][equifed.nn.standardize], or `center_crop` without a key for the
    test.

    **Arguments:**

    - `by`: Whose an example is: a partition, which reads `fine_label` or
        `coarse_label`. By default that of TensorFlow Federated in kind, 500 training
        or 100 test clients of [`equifed.data.PachinkoPartition`][].
    - `split`: `"train"` or `"test"`.
    - `data_files`: Copies of the set's files, which are read instead.
    - `streaming`: Whether to read the files without making `datasets`' own copy.

    **Returns:**

    A dataset with the columns `x` (`uint8`, 32x32x3), `y` (`int32`, the fine label) and
    `coarse` (`int32`).
    """
    check_choice("split", split, ("train", "test"))
    wanted = {"img": "image", "fine_label": "integers", "coarse_label": "integers"}
    rows = load(
        "uoft-cs/cifar100",
        wanted,
        split=split,
        data_files=data_files,
        streaming=streaming,
    )
    if by is None:
        by = PachinkoPartition(500 if split == "train" else 100)
    dataset = FederatedDataset.from_huggingface(rows, by=by, columns=list(wanted))
    x = images(dataset, "img", (32, 32, 3))
    y, coarse = labels(dataset, "fine_label", 100), labels(dataset, "coarse_label", 20)
    return dataset.map(lambda _: {"x": x, "y": y, "coarse": coarse})
