"""Models: how they are made, and what they are called on."""

import functools

import jax.numpy as jnp
import numpy as np

from equifed import models

from .algorithms import numbers
from .parts import counts
from .shared import KEY


GREY = (8, 8, 1)


@functools.cache
def conv_net():
    return models.ConvNet(GREY, 2, key=KEY)


@functools.cache
def vit():
    return models.ViT(GREY, 2, dim=4, num_heads=1, num_layers=1, key=KEY)


@functools.cache
def language():
    return models.LanguageLSTM(5, embed_size=2, hidden_size=3, key=KEY)


def with_key(kind, *args):
    """A model of which one argument is another."""
    return lambda **kwargs: kind(*args, **{"key": KEY, **kwargs})


def keys(make):
    return {
        "an integer for a key": (
            lambda: make(key=0),
            TypeError,
            "`key` must be one random key, got 0",
        ),
    }


def flags(make, *names):
    return {
        f"{name}=1": (
            lambda name=name: make(**{name: 1}),
            TypeError,
            f"`{name}` must be True or False, got 1",
        )
        for name in names
    }


def images(kind, least=1):
    """What all that are made for images of one shape refuse."""
    make = functools.partial(kind, key=KEY)
    small = {
        "an image too small": (
            lambda: make((least - 1, 28, 1), 2),
            ValueError,
            (f"`image_shape` must have at least {least} x {least}", "x 28"),
        )
    }
    return {
        **keys(with_key(kind, GREY if least <= 8 else (28, 28, 1), 2)),
        **counts(lambda x: make((28, 28, 1), x), name="num_classes", least=1),
        "a shape without channels": (
            lambda: make((28, 28), 2),
            ValueError,
            ("`image_shape` must be (height, width, channels)", "(28, 28)"),
        ),
        "one number for a shape": (
            lambda: make(28, 2),
            (TypeError, ValueError),
            ("`image_shape` must be", "got 28"),
        ),
        "a shape of fractions": (
            lambda: make((28.0, 28, 1), 2),
            TypeError,
            "`image_shape` must be",
        ),
        **(small if least > 1 else {}),
    }


EMNIST = ("ConvNet", "LogisticRegression", "MLP")
res_net = with_key(models.ResNet, (2, 4), (1, 1), 3)
lstm = with_key(models.LanguageLSTM, 5)
SIZES = {"embed_size": 2, "hidden_size": 3}

TABLE = {
    **{
        f"models.{name}.emnist": {
            **keys(getattr(models, name).emnist),
            **flags(with_key(getattr(models, name).emnist), "only_digits"),
        }
        for name in EMNIST
    },
    "models.ConvNet.cifar10": keys(models.ConvNet.cifar10),
    "models.LogisticRegression.cifar100": keys(models.LogisticRegression.cifar100),
    "models.LogisticRegression": images(models.LogisticRegression),
    "models.MLP": {
        **images(models.MLP),
        "a hidden layer of a fraction": (
            lambda: models.MLP(GREY, 2, hidden_sizes=(1.5,), key=KEY),
            TypeError,
            "`hidden_sizes` must be a list of integers",
        ),
        "a hidden layer of nothing": (
            lambda: models.MLP(GREY, 2, hidden_sizes=(0,), key=KEY),
            ValueError,
            "`hidden_sizes` must be at least 1, got 0",
        ),
    },
    "models.LeNet5": {
        **images(models.LeNet5, least=12),
        "one number of channels": (
            lambda: models.LeNet5(channels=(6,), key=KEY),
            ValueError,
            "`channels` must be two integers, got (6,)",
        ),
        "no unit": (
            lambda: models.LeNet5(units=(120, 0), key=KEY),
            ValueError,
            "`units` must be at least 1, got 0",
        ),
    },
    "models.ConvNet": {
        **images(models.ConvNet, least=6),
        "one rate": (
            lambda: models.ConvNet(GREY, 2, dropout=(0.5,), key=KEY),
            ValueError,
            ("`dropout` must be two numbers", "(0.5,)"),
        ),
        "all left out": (
            lambda: models.ConvNet(GREY, 2, dropout=(0.5, 1.0), key=KEY),
            ValueError,
            "`dropout` must be less than 1, got 1",
        ),
        "bytes for an image": (
            lambda: conv_net()(np.ones(GREY, np.uint8), key=KEY),
            TypeError,
            ("`image` must be of floating-point numbers, got uint8", "/ 255"),
        ),
        "an image without channels": (
            lambda: conv_net()(np.ones((8, 8), np.float32), key=KEY),
            ValueError,
            ("`ConvNet` takes one image of shape (8, 8, 1)", "(8, 8).", "[..., None]"),
        ),
        "a batch": (
            lambda: conv_net()(np.ones((4, *GREY), np.float32), key=KEY),
            ValueError,
            ("(4, 8, 8, 1)", "jax.vmap"),
        ),
        "no key for dropout": (
            lambda: conv_net()(np.ones(GREY, np.float32)),
            ValueError,
            ("needs a key", "`model(image, key=key)`", "inference_mode"),
        ),
    },
    "models.ResNet": {
        **keys(res_net),
        **counts(lambda x: res_net(num_groups=x), name="num_groups", least=1),
        **counts(lambda x: res_net(in_channels=x), name="in_channels", least=1),
        "groups that do not divide": (
            lambda: res_net(num_groups=4),
            ValueError,
            "`num_groups` must divide all `widths`, got 4 for a width of 2",
        ),
        "a stage without blocks": (
            lambda: models.ResNet((2, 4), (1,), 3, key=KEY),
            ValueError,
            ("`widths` and `num_blocks` must have a number for each stage", "(1,)"),
        ),
        "other channels": (
            lambda: res_net()(np.ones(GREY, np.float32)),
            ValueError,
            ("`ResNet` takes one image of shape (any, any, 3)", "(8, 8, 1)"),
        ),
    },
    "models.ResNet.resnet18": {
        **keys(models.ResNet.resnet18),
        **counts(
            lambda x: models.ResNet.resnet18(num_groups=x, key=KEY),
            name="num_groups",
            least=1,
        ),
    },
    "models.ResNet.resnet20": {
        **keys(models.ResNet.resnet20),
        **counts(
            lambda x: models.ResNet.resnet20(x, key=KEY), name="num_classes", least=1
        ),
    },
    "models.ViT": {
        **images(models.ViT),
        "patches that do not divide": (
            lambda: models.ViT((8, 6, 1), patch_size=4, key=KEY),
            ValueError,
            "`patch_size` must divide the image's sides, got 4 for 8 x 6 pixels",
        ),
        "heads that do not divide": (
            lambda: models.ViT(num_heads=5, key=KEY),
            ValueError,
            "`num_heads` must divide `dim`, got 5 for 192",
        ),
        "a longer sequence of patches": (
            lambda: vit()(np.ones((16, 16, 1), np.float32)),
            ValueError,
            ("`ViT` takes one image of shape (8, 8, 1)", "(16, 16, 1)"),
        ),
    },
    "models.LanguageLSTM": {
        **keys(lambda key: lstm(**SIZES, key=key)),
        **flags(lambda **x: lstm(**SIZES, **x), "project", "tied", "extra_tanh"),
        **counts(
            lambda x: models.LanguageLSTM(x, **SIZES, key=KEY),
            name="vocab_size",
            least=1,
        ),
        **counts(
            lambda x: lstm(**{**SIZES, "embed_size": x}), name="embed_size", least=1
        ),
        **counts(
            lambda x: lstm(**{**SIZES, "hidden_size": x}), name="hidden_size", least=1
        ),
        **counts(lambda x: lstm(**SIZES, num_layers=x), name="num_layers", least=1),
        "vectors of another size": (
            lambda: lstm(**SIZES, tied=True),
            ValueError,
            ("`tied`", "`hidden_size=3` and `embed_size=2`", "project=True"),
        ),
        "fractions for tokens": (
            lambda: language()(jnp.ones(3)),
            ValueError,
            "`tokens` must be one sequence of integers, got float32[3]",
        ),
        "a batch": (
            lambda: language()(np.ones((2, 3), int)),
            ValueError,
            ("`tokens` must be one sequence", "jax.vmap"),
        ),
        "text": (lambda: language()("to be"), TypeError, ("`tokens`", "'to be'")),
    },
    "models.LanguageLSTM.shakespeare": {
        **keys(models.LanguageLSTM.shakespeare),
        **flags(with_key(models.LanguageLSTM.shakespeare), "extra_tanh"),
    },
    "models.LanguageLSTM.stackoverflow": {
        **keys(models.LanguageLSTM.stackoverflow),
        **flags(with_key(models.LanguageLSTM.stackoverflow), "extra_tanh", "tied"),
    },
    "models.ToyRegression": {
        **numbers(models.ToyRegression, {}, name="weight"),
    },
}
