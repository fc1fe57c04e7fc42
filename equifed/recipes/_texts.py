"""The tasks of texts: the next character of Shakespeare, the next word of Stack
Overflow."""

import functools
import pathlib
from typing import Any

from jaxtyping import PRNGKeyArray

from ..data import from_fedjax_sqlite, from_tff_sqlite, sets, Vocabulary
from ..models import LanguageLSTM, LanguageTransformer
from ._images import licence_of
from ._next_token import (
    as_fedjax,
    as_fedjax_words,
    NextToken,
    of_all,
    of_known,
    of_words,
)
from ._task import Data, Task


def local_files(
    task: str, folder: pathlib.Path | None, *names: str
) -> list[pathlib.Path]:
    """Files that nobody publishes in this form."""
    if folder is None:
        raise ValueError(
            f"`folder` is needed for {task!r}: one with {' and '.join(names)}, which "
            "are not downloaded. On the command line it is `--data FOLDER`."
        )
    paths = [folder / name for name in names]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"`folder` has no file {path.name}: `{folder}`.")
    return paths


_SHAKESPEARE = ("shakespeare_train.sqlite", "shakespeare_test.sqlite")
STACKOVERFLOW = ("stackoverflow.sqlite",)
NUM_WORDS = 10_000


def _shakespeare(task: str, folder: pathlib.Path | None) -> Data:
    paths = local_files(task, folder, *_SHAKESPEARE)
    train, test = (sets.character_chunks(from_fedjax_sqlite(p)) for p in paths)
    return train, {"test": test}


def _stackoverflow(task: str, folder: pathlib.Path | None) -> Data:
    (path,) = local_files(task, folder, *STACKOVERFLOW)
    train, test = (
        from_tff_sqlite(path, split=split, columns=["tokens"])
        for split in ("train", "test")
    )
    vocabulary = sets.word_vocabulary(train, NUM_WORDS, column="tokens")
    if vocabulary.size != NUM_WORDS + 4:  # with padding, beginning, end and a bucket
        raise ValueError(
            f"The training split of `{path}` must have {NUM_WORDS} words or more, for "
            f"which the model is made, got {vocabulary.size - 4}."
        )
    train, test = (
        sets.next_words(x, vocabulary, max_length=20, column="tokens")
        for x in (train, test)
    )
    return train, {"test": test}


def _characters(key: PRNGKeyArray) -> LanguageLSTM:
    return LanguageLSTM.shakespeare(key=key)


def _characters_plainly(key: PRNGKeyArray) -> LanguageLSTM:
    return LanguageLSTM.shakespeare(extra_tanh=False, key=key)


def _words(key: PRNGKeyArray) -> LanguageLSTM:
    return LanguageLSTM.stackoverflow(key=key)


def _words_plainly(key: PRNGKeyArray) -> LanguageLSTM:
    return LanguageLSTM.stackoverflow(extra_tanh=False, key=key)


def _transformer(key: PRNGKeyArray) -> LanguageTransformer:
    return LanguageTransformer.stackoverflow(key=key)


_UNKNOWN = Vocabulary.shakespeare().oov
# The same for every vocabulary of this size.
_UNKNOWN_WORDS = (NUM_WORDS + 3,)
# What FedJAX's task takes for the length of a sentence: fedjax/training/tasks.py
# (62acaf52) of google/fedjax.
EXPECTED_LENGTH = 13.3


def _of_shakespeare(name: str) -> dict[str, Any]:
    return {
        "name": name,
        **licence_of("shakespeare"),
        "data": "FedJAX's Shakespeare, of LEAF",
        "partition": "by role",
        "files": " and ".join(_SHAKESPEARE) + ", of FedJAX",
        "reads": functools.partial(_shakespeare, name),
    }


def _of_stackoverflow(name: str) -> dict[str, Any]:
    return {
        "name": name,
        **licence_of("stackoverflow"),
        "partition": "by user",
        "files": STACKOVERFLOW[0] + ", of TensorFlow Federated",
        "reads": functools.partial(_stackoverflow, name),
    }


TASKS = (
    Task(
        make=_characters,
        **_of_shakespeare("shakespeare-character"),
        **NextToken(oov=_UNKNOWN, accuracies=as_fedjax).parts(),
    ),
    Task(
        make=_characters_plainly,
        **_of_shakespeare("shakespeare-lstm"),
        **NextToken(oov=_UNKNOWN, accuracies=of_all).parts(),
    ),
    Task(
        make=_words,
        **_of_stackoverflow("stackoverflow-word"),
        **NextToken(
            oov=_UNKNOWN_WORDS, accuracies=as_fedjax_words, over=EXPECTED_LENGTH
        ).parts(),
    ),
    Task(
        make=_words_plainly,
        **_of_stackoverflow("stackoverflow-lstm"),
        **NextToken(oov=_UNKNOWN_WORDS, accuracies=of_words).parts(),
    ),
    Task(
        make=_transformer,
        **_of_stackoverflow("stackoverflow-transformer"),
        **NextToken(oov=_UNKNOWN_WORDS, accuracies=of_known).parts(),
    ),
)
