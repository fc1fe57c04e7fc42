"""Two more tasks of Reddi et al. (2021): an autoencoder of EMNIST, and the tags of what
is asked on Stack Overflow.
"""

import collections
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._metrics import Average
from ..data import FederatedDataset, from_tff_sqlite
from ..data.sets._text import texts_of
from ._images import EMNIST_CARD, licence_of
from ._task import Data, Task
from ._texts import local_files, NUM_WORDS, STACKOVERFLOW


NUM_TAGS = 500
MAX_WORDS, MAX_TAGS = 200, 5  # of an example; nobody may give more tags than that


def _dense(in_size: int, out_size: int, key: PRNGKeyArray) -> eqx.nn.Linear:
    """A layer that begins as those there do: Glorot's normal weights, no biases."""
    layer = eqx.filter_eval_shape(eqx.nn.Linear, in_size, out_size, key=key)
    weight = jax.nn.initializers.glorot_normal()(key, (out_size, in_size))
    new = weight, jnp.zeros(out_size)
    return eqx.tree_at(lambda x: (x.weight, x.bias), layer, new)


class Autoencoder(eqx.Module):
    """784 pixels to 30 numbers and back, by way of 1,000, 500 and 250, with sigmoids
    but at the 30: 2,837,314 parameters."""

    layers: tuple[eqx.nn.Linear, ...]

    def __init__(self, key: PRNGKeyArray):
        sizes = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
        keys = jr.split(key, len(sizes) - 1)
        pairs = zip(sizes[:-1], sizes[1:], keys, strict=True)
        self.layers = tuple(_dense(*each) for each in pairs)

    def __call__(
        self, image: Float[Array, "28 28 1"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " pixels"]:
        del key
        x = jnp.ravel(image)
        for layer in self.layers:
            x = layer(x)
            x = x if layer.out_features == 30 else jax.nn.sigmoid(x)
        return x


def _squares(model, example, key):
    error = model(example["x"], key=key) - jnp.ravel(example["x"])
    return jnp.mean(error * error)


def _reconstruction(model, example, key):
    return _squares(model, example, key), {}


class TagRegression(eqx.Module):
    """Logistic regression of each tag on the shares that words have in a text: 10,000
    words and 500 tags are 5,000,500 parameters."""

    weight: Float[Array, "words tags"]
    bias: Float[Array, " tags"]

    def __init__(self, key: PRNGKeyArray):
        shape = (NUM_WORDS, NUM_TAGS)
        self.weight = jax.nn.initializers.glorot_normal()(key, shape)
        self.bias = jnp.zeros(NUM_TAGS)

    def __call__(
        self,
        words: Int[Array, " length"],
        share: Float[Array, ""],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " tags"]:
        """The logits of a text of known words, each of which has this share in it."""
        del key
        rows = self.weight.at[words].get(mode="fill", fill_value=0)
        return share.astype(self.bias.dtype) * rows.sum(0) + self.bias


def _is_tag(tags: Int[Array, " most"]) -> Float[Array, " tags"]:
    every = jnp.arange(NUM_TAGS, dtype=tags.dtype)
    return (tags[:, None] == every[None]).any(0).astype(float)


def _tag_logits(model, example, key):
    return model(example["words"], example["share"], key=key)


def _tag_loss(model, example, key):
    logits, wanted = _tag_logits(model, example, key), _is_tag(example["tags"])
    return optax.sigmoid_binary_cross_entropy(logits, wanted).mean(), {}


def _tag_metrics(model, example, key):
    """The loss; of what is thought a tag how much is one; and of the tags how many are
    among the five that are the most likely."""
    logits, wanted = _tag_logits(model, example, key), _is_tag(example["tags"])
    loss = optax.sigmoid_binary_cross_entropy(logits, wanted).mean()
    said = (logits > 0).astype(wanted.dtype)
    _, best = jax.lax.top_k(logits, 5)
    return {
        "loss": loss,
        "precision": Average((said * wanted).sum(), said.sum()),
        "recall_at_5": Average(wanted[best].sum(), wanted.sum()),
    }


def _stackoverflow_tags(folder: pathlib.Path | None) -> Data:
    (path,) = local_files("stackoverflow-tag", folder, *STACKOVERFLOW)
    train, test = (
        from_tff_sqlite(path, split=split, columns=["tokens", "title", "tags"])
        for split in ("train", "test")
    )
    words = _most_frequent(map(str.split, texts_of(train, "tokens")), NUM_WORDS)
    tags = _most_frequent(map(_tags_of, texts_of(train, "tags")), NUM_TAGS)
    train, test = (_bags(x, words, tags) for x in (train, test))
    return train, {"test": test}


def _tags_of(text: str) -> list[str]:
    return text.split("|")


def _most_frequent(texts: Iterable[Sequence[str]], count: int) -> dict[str, int]:
    """The numbers of so many, the most frequent first, and then in their own order."""
    found = collections.Counter(x for text in texts for x in text)
    ordered = sorted(found, key=lambda x: (-found[x], x))
    return {x: i for i, x in enumerate(ordered[:count])}


def _bags(
    dataset: FederatedDataset, words: dict[str, int], tags: dict[str, int]
) -> FederatedDataset:
    """Texts, with their titles, as the known words in them."""
    columns = [texts_of(dataset, name) for name in ("tokens", "title")]
    texts = [f"{x} {title}".split() for x, title in zip(*columns, strict=True)]
    lengths = np.array([max(len(text), 1) for text in texts], np.float32)
    of_tags = [_tags_of(text) for text in texts_of(dataset, "tags")]
    new = {
        "words": _numbers(texts, words, MAX_WORDS, none=NUM_WORDS),
        "share": 1 / lengths,
        "tags": _numbers(of_tags, tags, MAX_TAGS, none=NUM_TAGS),
    }
    return dataset.map(lambda columns: new)


def _numbers(
    texts: Sequence[Sequence[str]], known: dict[str, int], most: int, *, none: int
) -> Int[np.ndarray, "examples most"]:
    """The first known ones of each, and then a number that none has."""
    out = np.full((len(texts), most), none, np.int32)
    for row, text in enumerate(texts):
        ids = [known[x] for x in text if x in known][:most]
        out[row, : len(ids)] = ids
    return out


_CARD: dict[str, Any] = licence_of("stackoverflow")
TASKS = (
    Task(
        name="emnist-autoencoder",
        make=Autoencoder,
        **EMNIST_CARD,
        loss=_reconstruction,
        metrics=_reconstruction,
        label="y",
    ),
    Task(
        name="stackoverflow-tag",
        make=TagRegression,
        **_CARD,
        partition="by user",
        files=STACKOVERFLOW[0] + ", of TensorFlow Federated",
        reads=_stackoverflow_tags,
        loss=_tag_loss,
        metrics=_tag_metrics,
        logits=_tag_logits,
        label="tags",
    ),
)
