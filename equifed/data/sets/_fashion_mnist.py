"""Fashion-MNIST, which has no clients of its own."""

from typing import Literal

from ..._check import check_choice, checked
from .._dataset import FederatedDataset
from .._partition import AbstractPartition, Partitioner
from ._cite import card
from ._load import Files, images, labels, load


card(
    "fashion_mnist",
    source="https://huggingface.co/datasets/zalando-datasets/fashion_mnist",
    licence="MIT",
    bibtex="""
@article{xiao2017fashion,
  title={{Fashion-MNIST}: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms},
  author={Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  journal={arXiv preprint arXiv:1708.07747},
  year={2017},
}
""",
)


@checked(by="Write `DirichletPartition(100, 0.1)`, for example.")
def fashion_mnist(
    by: str | AbstractPartition | Partitioner,
    *,
    split: Literal["train", "test"] = "train",
    data_files: Files | None = None,
    streaming: bool = False,
) -> FederatedDataset:
    """Fashion-MNIST: 60,000 training and 10,000 test images of 10 kinds of clothes.

    Loads `zalando-datasets/fashion_mnist`.

    **Arguments:**

    - `by`: Whose an example is: a partition, which reads `label`.
    - `split`: `"train"` or `"test"`.
    - `data_files`: Copies of the set's files, which are read instead.
    - `streaming`: Whether to read the files without making `datasets`' own copy.

    **Returns:**

    A dataset with the columns `x` (`uint8`, 28x28x1) and `y` (`int32`).
    """
    check_choice("split", split, ("train", "test"))
    wanted = {"image": "image", "label": "integers"}
    rows = load(
        "zalando-datasets/fashion_mnist",
        wanted,
        split=split,
        data_files=data_files,
        streaming=streaming,
    )
    dataset = FederatedDataset.from_huggingface(rows, by=by, columns=list(wanted))
    x, y = images(dataset, "image", (28, 28, 1)), labels(dataset, "label", 10)
    return dataset.map(lambda _: {"x": x, "y": y})
