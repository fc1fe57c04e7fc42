"""Sets that others publish, and what is done to their images."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np

import equifed as eqf

from .data import seeds
from .parts import counts
from .running import EITHER
from .shared import KEY, NAN


sets, nn, data = eqf.data.sets, eqf.nn, eqf.data
IID = data.IIDPartition(2)
IMAGE = jnp.ones((4, 4, 1))
FLAT = jnp.ones((4, 4))
KEYS = jr.split(KEY, 2)
WORDS = data.Vocabulary(["to", "be"])
TALK = data.FederatedDataset.from_arrays(
    {"text": np.array(["to be", "or"]), "y": np.arange(2)}, by=["a", "b"]
)


def files(make):
    """What is no file of a set."""
    return {
        "a number for files": (
            lambda: make(data_files=3),
            TypeError,
            "`data_files`",
        ),
        "no files": (lambda: make(data_files=[]), ValueError, "`data_files` is empty"),
        "files of another kind": (
            lambda: make(data_files=["a.parquet", "a.zip"]),
            ValueError,
            ("`data_files`", ".parquet", "a.zip"),
        ),
        "streaming=1": (
            lambda: make(data_files="a.csv", streaming=1),
            TypeError,
            "`streaming`",
        ),
    }


LETTERS = data.Vocabulary("tobe")


def instruct(clients=TALK, by=LETTERS, template=None, columns=("text",), **kwargs):
    def asked(row):
        return [("t", False), (row["text"], True)]

    return sets.instructions(
        clients,
        by,
        asked if template is None else template,
        columns=list(columns),
        **{"length": 9, "end": 2, **kwargs},
    )


def packing(make):
    """What all that make tokens of texts refuse."""
    return {
        **counts(lambda x: make(length=x), name="length", least=1),
        "a token that the model does not know": (
            lambda: make(end=0, vocab_size=5),
            ValueError,
            ("A model of 5 tokens knows 0 to 4", "example 0 of client 'a'"),
        ),
        "a model of no tokens": (
            lambda: make(vocab_size=0),
            ValueError,
            "`vocab_size` must be at least 1, got 0",
        ),
        "texts in a list": (
            lambda: make(["to be"]),
            TypeError,
            ("`dataset`", "from_huggingface"),
        ),
        "a vocabulary of words": (
            lambda: make(by=WORDS),
            ValueError,
            ("`vocabulary`", "characters"),
        ),
        "a function for a tokeniser": (
            lambda: make(by=str.split),
            TypeError,
            ("`tokenizer` must be a `tokenizers.Tokenizer`", "backend_tokenizer"),
        ),
        "an end beyond the vocabulary": (
            lambda: make(end=8),
            ValueError,
            "`end` must be at most 7, got 8",
        ),
        "a column of numbers": (lambda: make(column="y"), ValueError, "'y'"),
        "a column that is not there": (
            lambda: make(column="z"),
            (KeyError, ValueError),
            "'z'",
        ),
    }


def partitions(make):
    return {
        "a number for a partition": (
            lambda: make(3),
            TypeError,
            ("`by`", "Partition("),
        ),
        "split='all'": (
            lambda: make(IID, split="all"),
            ValueError,
            ("`split`", "'train'", "'all'"),
        ),
    }


TABLE = {
    "data.sets.cite": {
        "a set that is unknown": (
            lambda: sets.cite("mnist"),
            ValueError,
            ("`name`", "'emnist'", "'mnist'"),
        ),
    },
    "data.sets.emnist": {
        **files(sets.emnist),
        "digits=1": (lambda: sets.emnist(only_digits=1), TypeError, "`only_digits`"),
    },
    "data.sets.emnist_domain": {
        "no writer": (
            lambda: sets.emnist_domain("writer3"),
            ValueError,
            ("`client_id`", "'f2100_45'", "'writer3'"),
        ),
        "bytes for a writer": (
            lambda: sets.emnist_domain(b"f2100_45"),
            TypeError,
            "`client_id`",
        ),
    },
    "data.sets.cifar10": {
        **partitions(sets.cifar10),
        **files(lambda **kwargs: sets.cifar10(IID, **kwargs)),
    },
    "data.sets.cifar100": {
        **partitions(sets.cifar100),
        **files(lambda **kwargs: sets.cifar100(**kwargs)),
    },
    "data.sets.fashion_mnist": {
        **partitions(sets.fashion_mnist),
        **files(lambda **kwargs: sets.fashion_mnist(IID, **kwargs)),
    },
    "data.sets.medmnist": {
        **partitions(lambda *args, **kwargs: sets.medmnist("a.npz", *args, **kwargs)),
        "no file of MedMNIST": (
            lambda: sets.medmnist("no.npz", IID),
            ValueError,
            ("`file`", "'no.npz'"),
        ),
        "another file for MedMNIST": (
            lambda: sets.medmnist(__file__, IID),
            ValueError,
            ("cannot be read", "Download it anew"),
        ),
    },
    "data.sets.shakespeare": {
        **files(sets.shakespeare),
        "a vocabulary of words for Shakespeare": (
            lambda: sets.shakespeare(vocabulary=WORDS),
            ValueError,
            ("`vocabulary`", "characters", "'to'"),
        ),
        "a list for a vocabulary": (
            lambda: sets.shakespeare(vocabulary=["a", "b"]),
            TypeError,
            "`vocabulary`",
        ),
    },
    "data.sets.character_chunks": {
        **counts(
            lambda x: sets.character_chunks(TALK, length=x, column="text"),
            name="length",
            least=1,
        ),
        "no snippets": (
            lambda: sets.character_chunks(TALK),
            ValueError,
            ("'snippets'", "text"),
        ),
        "snippets of numbers": (
            lambda: sets.character_chunks(TALK, column="y"),
            ValueError,
            ("'y'", "text", "int64"),
        ),
    },
    "data.sets.stackoverflow": {
        **files(
            lambda data_files, **kwargs: sets.stackoverflow(data_files, WORDS, **kwargs)
        ),
        "a vocabulary of characters": (
            lambda: sets.stackoverflow("a.parquet", data.Vocabulary.shakespeare()),
            ValueError,
            ("`vocabulary`", "words", "word_vocabulary"),
        ),
        "a size for a vocabulary": (
            lambda: sets.stackoverflow("a.parquet", 10_000),
            TypeError,
            ("`vocabulary`", "word_vocabulary(dataset, 10_000"),
        ),
        **counts(
            lambda x: sets.stackoverflow("a.parquet", WORDS, max_length=x),
            name="max_length",
            least=1,
        ),
    },
    "data.sets.sent140": {
        **files(sets.sent140),
        "split='dev'": (
            lambda: sets.sent140(split="dev"),
            ValueError,
            ("`split`", "'test'", "'dev'"),
        ),
    },
    "data.sets.cornell_movie_dialogs": files(sets.cornell_movie_dialogs),
    "data.sets.word_vocabulary": {
        **counts(lambda x: sets.word_vocabulary(TALK, x), name="num_words", least=1),
        "no such texts": (
            lambda: sets.word_vocabulary(TALK, 3, column="tokens"),
            ValueError,
            ("'tokens'", "text"),
        ),
        "texts in a list": (
            lambda: sets.word_vocabulary(["to be"], 3),
            TypeError,
            ("`dataset`", "from_huggingface"),
        ),
    },
    "data.sets.next_words": {
        **counts(
            lambda x: sets.next_words(TALK, WORDS, max_length=x),
            name="max_length",
            least=1,
        ),
        "words of characters": (
            lambda: sets.next_words(TALK, data.Vocabulary("tobe")),
            ValueError,
            ("`vocabulary`", "words", "4 symbols"),
        ),
    },
    "data.sets.token_chunks": packing(
        lambda data=TALK, by=LETTERS, length=4, end=2, **x: sets.token_chunks(
            data, by, length=length, end=end, **x
        )
    ),
    "data.sets.instructions": {
        **packing(
            lambda data=TALK, by=LETTERS, length=4, end=2, column="text", **x: instruct(
                data, by, length=length, end=end, columns=[column], **x
            )
        ),
        "a template that is a text": (
            lambda: instruct(template="Q: {text}"),
            TypeError,
            ("`template`", "function", "'Q: {text}'"),
        ),
        "a template that returns text": (
            lambda: instruct(template=lambda x: x["text"]),
            TypeError,
            ("`template` must return pairs", "'to be'", "example 0 of client 'a'"),
        ),
        "a template that returns nothing": (
            lambda: instruct(template=lambda x: []),
            TypeError,
            "`template` must return pairs",
        ),
        "a template that asks nothing": (
            lambda: instruct(template=lambda x: [(x["text"], False)]),
            ValueError,
            ("Nothing is asked in any of the", "(text, True)"),
        ),
        "a template of other columns": (
            lambda: instruct(template=sets.chat_ml("text", "answer")),
            ValueError,
            ("The template reads column 'answer', and is given", "`columns=`"),
        ),
        "a conversation of another column": (
            lambda: instruct(template=sets.chat_ml_messages("messages")),
            ValueError,
            "The template reads column 'messages', and is given",
        ),
        "a name for the columns": (
            lambda: sets.instructions(
                TALK, LETTERS, lambda x: [], columns="text", length=4, end=2
            ),
            TypeError,
            ("`columns` must be a list of names", "['text']"),
        ),
        "pack=1": (lambda: instruct(pack=1), TypeError, "`pack`"),
    },
    "data.sets.chat_ml": {
        "a number for a column": (
            lambda: sets.chat_ml(1, "b"),
            TypeError,
            "`instruction`",
        ),
        "a number for the system": (
            lambda: sets.chat_ml("a", "b", system=1),
            TypeError,
            "`system`",
        ),
    },
    "data.sets.chat_ml_messages": {
        "a number for a column": (
            lambda: sets.chat_ml_messages(1),
            TypeError,
            "`column`",
        ),
        "a number for the system": (
            lambda: sets.chat_ml_messages("a", system=1),
            TypeError,
            "`system`",
        ),
        "no JSON": (
            lambda: sets.chat_ml_messages("a")({"a": "Who?"}),
            ValueError,
            ("Column 'a' must hold conversations, the JSON text of", "'Who?'"),
        ),
        "another role": (
            lambda: sets.chat_ml_messages("a")(
                {"a": '[{"role": "tool", "content": "x"}]'}
            ),
            ValueError,
            "with the roles system, user and assistant",
        ),
        "no answer": (
            lambda: sets.chat_ml_messages("a")(
                {"a": '[{"role": "user", "content": "x"}]'}
            ),
            ValueError,
            "has no message of the assistant",
        ),
    },
    "data.sets.padded_words": {
        **counts(
            lambda x: sets.padded_words(TALK, WORDS, max_length=x),
            name="max_length",
            least=1,
        ),
        "words with spaces": (
            lambda: sets.padded_words(
                TALK, data.Vocabulary(["to be", "or"]), max_length=3
            ),
            ValueError,
            ("`vocabulary`", "spaces", "'to be'"),
        ),
    },
    "data.PachinkoPartition": {
        **counts(data.PachinkoPartition, name="num_clients", least=1),
        **{
            f"{name}={x!r}": (
                lambda name=name, x=x: data.PachinkoPartition(2, **{name: x}),
                EITHER,
                f"`{name}`",
            )
            for name in ("coarse_alpha", "fine_alpha")
            for x in (0.0, -1.0, NAN, "1", None)
        },
        "no coarse label": (
            lambda: data.FederatedDataset.from_arrays(
                {"fine_label": np.arange(4)}, data.PachinkoPartition(2)
            ),
            ValueError,
            ("'coarse_label'", "fine_label"),
        ),
        **seeds(lambda x: data.PachinkoPartition(2, seed=x)),
    },
    "nn.standardize": {
        "a batch to standardize": (
            lambda: nn.standardize(FLAT),
            TypeError,
            ("`image`", "height width channels"),
        ),
    },
    "nn.center_crop": {
        "a crop of nothing": (
            lambda: nn.center_crop(IMAGE, 0),
            ValueError,
            ("`size`", "got 0"),
        ),
        "a crop of more": (
            lambda: nn.center_crop(IMAGE, 5),
            ValueError,
            ("`size`", "(4, 4)", "(5, 5)"),
        ),
        "an image without channels": (
            lambda: nn.center_crop(FLAT, 2),
            TypeError,
            "`image`",
        ),
    },
    "nn.random_crop": {
        "a random crop of more": (
            lambda: nn.random_crop(IMAGE, (4, 9), padding=2, key=KEY),
            ValueError,
            ("`size`", "(8, 8)", "(4, 9)"),
        ),
        **counts(
            lambda x: nn.random_crop(IMAGE, 2, padding=x, key=KEY),
            name="padding",
            least=0,
        ),
        "keys for a crop": (
            lambda: nn.random_crop(IMAGE, 2, key=KEYS),
            TypeError,
            "`key` must be one random key",
        ),
    },
    "nn.random_flip": {
        "no key to flip": (lambda: nn.random_flip(IMAGE, key=0), TypeError, "`key`"),
        "no image to flip": (
            lambda: nn.random_flip(FLAT, key=KEY),
            TypeError,
            "`image`",
        ),
    },
}
