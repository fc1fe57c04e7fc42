"""MedMNIST: medical images in one form. Its files are NumPy's."""

import os
import zipfile
from collections.abc import Mapping
from typing import Literal

import numpy as np

from ..._check import check_choice, check_kind, checked
from ..._words import first_line, listed, shown
from .._dataset import FederatedDataset
from .._partition import AbstractPartition, Partitioner
from ._cite import card


card(
    "medmnist",
    source="https://medmnist.com",
    licence="CC BY 4.0 (DermaMNIST: CC BY-NC 4.0)",
    bibtex="""
@article{yang2023medmnist,
  title={{MedMNIST} v2: A large-scale lightweight benchmark for 2{D} and 3{D} biomedical
    image classification},
  author={Yang, Jiancheng and Shi, Rui and Wei, Donglai and Liu, Zequan and Zhao, Lin
    and Ke, Bilian and Pfister, Hanspeter and Ni, Bingbing},
  journal={Scientific Data},
  year={2023},
}
""",
)


@checked(by="Write `DirichletPartition(100, 0.1)`, for example.")
def medmnist(
    file: str | os.PathLike,
    by: str | AbstractPartition | Partitioner,
    *,
    split: Literal["train", "val", "test"] = "train",
) -> FederatedDataset:
    """A set of MedMNIST, such as PathMNIST or BloodMNIST, from its file.

    The package `medmnist` downloads it (`medmnist.PathMNIST(split="train",
    download=True)` puts `pathmnist.npz` into the folder `.medmnist` of your home), and
    is not needed to read it.

    **Arguments:**

    - `file`: The file, which ends in `.npz`.
    - `by`: Whose an example is: a partition, which reads `label`.
    - `split`: `"train"`, `"val"` or `"test"`.

    **Returns:**

    A dataset with the columns `x` (`uint8`; channels last, one if grey) and `y`
    (`int32`; a row of them where an example has several).
    """
    check_choice("split", split, ("train", "val", "test"))
    arrays = _read(os.fspath(file), (f"{split}_images", f"{split}_labels"))
    x, y = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    if x.ndim < 3 or len(x) != len(y) or y.ndim != 2 or y.dtype.kind not in "iu":
        raise ValueError(
            f"{shown(file)} must hold images and one row of labels for each, got "
            f"{shown(x)} and {shown(y)}."
        )
    if x.shape[-1] != 3:
        x = x[..., np.newaxis]
    y = (y[:, 0] if y.shape[1] == 1 else y).astype(np.int32)
    # A partition reads `label`, as of the other sets.
    dataset = FederatedDataset.from_arrays({"x": x, "label": y}, by)
    return dataset.rename({"label": "y"})


def _read(file: str, names: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    check_kind("file", file, str)
    if not os.path.isfile(file):
        raise ValueError(f"`file` must be a file of MedMNIST, got {shown(file)}: none.")
    try:
        with open(file, "rb") as raw, np.load(raw, allow_pickle=False) as arrays:
            missing = [name for name in names if name not in arrays]
            if not missing:
                return {name: arrays[name] for name in names}
            known = list(arrays)
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(
            f"{shown(file)} cannot be read as a file of MedMNIST: {first_line(error)}. "
            "Download it anew."
        ) from error
    raise ValueError(
        f"{shown(file)} has no {missing[0]!r}, and so is no file of MedMNIST; it has: "
        f"{listed(known)}."
    )
