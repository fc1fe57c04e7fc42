"""Federated sets that others publish, one a file: each is loaded, its columns checked,
and brought into the form that the papers use."""

from ._cifar import cifar10 as cifar10, cifar100 as cifar100
from ._cite import cite as cite
from ._emnist import emnist as emnist, emnist_domain as emnist_domain
from ._fashion_mnist import fashion_mnist as fashion_mnist
from ._medmnist import medmnist as medmnist
