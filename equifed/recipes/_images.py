"""The tasks of images: EMNIST by writer, CIFAR-10 and CIFAR-100 as the papers deal
them."""

import pathlib
from typing import Any

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray

from .. import nn
from ..data import (
    AbstractPartition,
    DirichletPartition,
    FederatedDataset,
    IIDPartition,
    InnerDirichletPartition,
    sets,
)
from ..models import ConvNet, LeNet5, LogisticRegression, MLP, ResNet
from ._classifier import Classifier
from ._task import Data, Task


def licence_of(name: str) -> dict[str, str]:
    """What a set's card says."""
    source, licence, *bibtex = sets.cite(name).split("\n")
    return {
        "data": source.removeprefix("% "),
        "licence": licence.removeprefix("% Licence: "),
        "cite": "\n".join(bibtex),
    }


def files_of(folder: pathlib.Path | None, pattern: str) -> list[str] | None:
    """The files of a folder, or none if they are downloaded."""
    if folder is None:
        return None
    paths = sorted(map(str, folder.glob(pattern)))
    if not paths:
        raise FileNotFoundError(f"`folder` has no file {pattern}: `{folder}`.")
    return paths


def as_is(image: Array) -> Array:
    return image


def _emnist(folder: pathlib.Path | None) -> Data:
    clients = sets.emnist(data_files=files_of(folder, "*.parquet"))
    train, test = clients.split_examples(0.1, seed=0)
    return train, {"test": test}


EMNIST_CARD: dict[str, Any] = {
    **licence_of("emnist"),
    "partition": "by writer; a tenth of each one's examples are for the test",
    "files": "the parquet files of flwrlabs/femnist",
    "reads": _emnist,
}


def _dense2(model):
    return model.dense2


def _layer(model):
    return model.layers[-1]


def _dense(model):
    return model.dense


def _emnist_conv(key: PRNGKeyArray) -> ConvNet:
    return ConvNet.emnist(key=key)


def _emnist_dense(key: PRNGKeyArray) -> MLP:
    return MLP.emnist(key=key)


def _emnist_logistic(key: PRNGKeyArray) -> LogisticRegression:
    return LogisticRegression.emnist(key=key)


EMNIST = (
    Task(
        name="emnist-conv",
        make=_emnist_conv,
        **EMNIST_CARD,
        **Classifier(prepare=as_is, last=_dense2).parts(),
    ),
    Task(
        name="emnist-dense",
        make=_emnist_dense,
        **EMNIST_CARD,
        **Classifier(prepare=as_is, last=_layer).parts(),
    ),
    Task(
        name="emnist-logistic",
        make=_emnist_logistic,
        **EMNIST_CARD,
        **Classifier(prepare=as_is).parts(),
    ),
)

_MEAN, _STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


def normalized(image: Array) -> Array:
    """From 0 to 1, and then by the mean and the deviation of CIFAR-10's channels."""
    mean, std = (jnp.asarray(x)[None, None] for x in (_MEAN, _STD))
    return (image.astype(jnp.float32) / 255 - mean) / std


def flipped_and_shifted(image: Array, key: PRNGKeyArray) -> Array:
    """One of two is flipped, one of two moved by up to 4 pixels."""
    keys = jr.split(key, 3)
    image = nn.random_flip(image, key=keys[0])
    moved = nn.random_crop(image, 32, padding=4, key=keys[1])
    return jnp.where(jr.bernoulli(keys[2]), moved, image)


def _cifar10(by: AbstractPartition) -> Any:
    def reads(folder: pathlib.Path | None) -> Data:
        train = sets.cifar10(by, data_files=files_of(folder, "train*.parquet"))
        files = files_of(folder, "test*.parquet")
        test = sets.cifar10(IIDPartition(1), split="test", data_files=files)
        return train, {"test": test}

    return reads


def _convnet(key: PRNGKeyArray) -> ConvNet:
    return ConvNet.cifar10(key=key)


def _resnet18(key: PRNGKeyArray) -> ResNet:
    return ResNet.resnet18(10, key=key)


def _lenet(key: PRNGKeyArray) -> LeNet5:
    return LeNet5((32, 32, 3), 10, key=key)


def _wide_lenet(key: PRNGKeyArray) -> LeNet5:
    wide = {"channels": (64, 64), "units": (384, 192)}
    return LeNet5((32, 32, 3), 10, **wide, key=key)


def cifar10_task(
    name: str, make: Any, by: AbstractPartition, words: str, classifier: Classifier
) -> Task:
    return Task(
        name=name,
        make=make,
        **licence_of("cifar10"),
        partition=words,
        files="train*.parquet and test*.parquet of uoft-cs/cifar10",
        reads=_cifar10(by),
        **classifier.parts(),
    )


def _inner(num_clients: int, alpha: float) -> InnerDirichletPartition:
    sizes = [50_000 // num_clients] * num_clients
    return InnerDirichletPartition(sizes, alpha)


_SMALL = Classifier(prepare=normalized, last=_dense2)
_LENET = Classifier(prepare=normalized, last=_layer)
_WIDE = Classifier(prepare=normalized, distort=flipped_and_shifted, last=_layer)
_LARGE = Classifier(prepare=normalized, distort=flipped_and_shifted, last=_dense)
_IID = "at random, 50,000 / {} each"
_DIRICHLET = "{} clients of equal size, each of its own Dirichlet({:g}) of labels"
CIFAR10 = (
    cifar10_task(
        "cifar10-cnn-iid", _convnet, IIDPartition(1000), _IID.format(1000), _SMALL
    ),
    cifar10_task(
        "cifar10-cnn-dir0.1",
        _convnet,
        _inner(1000, 0.1),
        _DIRICHLET.format(1000, 0.1),
        _SMALL,
    ),
    cifar10_task(
        "cifar10-resnet18-iid", _resnet18, IIDPartition(100), _IID.format(100), _LARGE
    ),
    *(
        cifar10_task(
            f"cifar10-resnet18-dir{alpha:g}",
            _resnet18,
            _inner(100, alpha),
            _DIRICHLET.format(100, alpha),
            _LARGE,
        )
        for alpha in (0.6, 0.3, 0.1)
    ),
    cifar10_task(
        "cifar10-widelenet-iid", _wide_lenet, IIDPartition(100), _IID.format(100), _WIDE
    ),
    cifar10_task(
        "cifar10-widelenet-dir0.6",
        _wide_lenet,
        _inner(100, 0.6),
        _DIRICHLET.format(100, 0.6),
        _WIDE,
    ),
    cifar10_task(
        "cifar10-lenet-dir0.5",
        _lenet,
        DirichletPartition(10, 0.5, min_size=10),
        "10 clients, each label dealt by a Dirichlet(0.5) of its own",
        _LENET,
    ),
)


def cropped(image: Array) -> Array:
    """The 24 x 24 pixels in the middle, standardised."""
    return nn.standardize(nn.center_crop(image, 24))


def standardized(image: Array) -> Array:
    """Of a crop, which is in the middle where the image is a whole one."""
    return nn.standardize(nn.center_crop(image, 24) if image.shape[0] > 24 else image)


def random24(image: Array, key: PRNGKeyArray) -> Array:
    """24 x 24 pixels from anywhere, perhaps flipped."""
    own, flip = jr.split(key)
    return nn.random_flip(nn.random_crop(image, 24, key=own), key=flip)


def _cifar100(folder: pathlib.Path | None) -> Data:
    train = sets.cifar100(data_files=files_of(folder, "train*.parquet"))
    test: FederatedDataset = sets.cifar100(
        split="test", data_files=files_of(folder, "test*.parquet")
    )
    return train, {"test": test}


def _cifar100_logistic(key: PRNGKeyArray) -> LogisticRegression:
    return LogisticRegression.cifar100(key=key)


def _cifar100_resnet(key: PRNGKeyArray) -> ResNet:
    return ResNet.resnet18(100, key=key)


CIFAR100_CARD: dict[str, Any] = {
    **licence_of("cifar100"),
    "partition": "Pachinko allocation: 500 clients of 100 examples train",
    "files": "train*.parquet and test*.parquet of uoft-cs/cifar100",
    "reads": _cifar100,
}
CIFAR100 = (
    Task(
        name="cifar100-logistic",
        make=_cifar100_logistic,
        **CIFAR100_CARD,
        **Classifier(prepare=cropped).parts(),
    ),
    Task(
        name="cifar100-resnet18",
        make=_cifar100_resnet,
        **CIFAR100_CARD,
        **Classifier(prepare=standardized, distort=random24, last=_dense).parts(),
    ),
)
TASKS = (*EMNIST, *CIFAR10, *CIFAR100)
