"""The tasks of texts: the next character of Shakespeare, the next word of Stack
Overflow."""

import dataclasses
import pathlib
from typing import Any

from jaxtyping import PRNGKeyArray

from .._measures import Perplexity, token_accuracy, token_cross_entropy
from ..data import from_fedjax_sqlite, from_tff_sqlite, sets, Vocabulary
from ..models import LanguageLSTM, LanguageTransformer
from ._images import licence_of
from ._task import Data, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextToken:
    """The loss of a sequence, over its length, and the metrics of its tokens.

    **Arguments:**

    - `blocked`: tokens that are never foretold, when accuracy is measured.
    - `masked`: targets that do not count there.
    """

    masked: tuple[int, ...]
    blocked: tuple[int, ...]

    def logits(self, model, example, key):
        return model(example["x"], key=key)

    def loss(self, model, example, key):
        logits = self.logits(model, example, key)
        tokens = token_cross_entropy(logits, example["y"])
        return tokens.total / example["y"].size, {"token_loss": tokens}

    def metrics(self, model, example, key):
        logits, y = self.logits(model, example, key), example["y"]
        return {
            "loss": token_cross_entropy(logits, y),
            "accuracy": token_accuracy(
                logits, y, masked=self.masked, blocked=self.blocked
            ),
            "perplexity": Perplexity(logits, y),
            "accuracy_no_eos": token_accuracy(logits, y, masked=self.masked[:2]),
        }

    def parts(self) -> dict[str, Any]:
        """What a task has of it; what is said of one label does not fit a sequence."""
        return {"loss": self.loss, "metrics": self.metrics, "label": "y"}


def _next_token(vocabulary: Vocabulary) -> NextToken:
    v = vocabulary
    return NextToken(masked=(v.pad, v.eos, *v.oov), blocked=tuple(v.special))


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


def _shakespeare(folder: pathlib.Path | None) -> Data:
    paths = local_files("shakespeare-character", folder, *_SHAKESPEARE)
    train, test = (sets.character_chunks(from_fedjax_sqlite(p)) for p in paths)
    return train, {"test": test}


def _stackoverflow(folder: pathlib.Path | None) -> Data:
    (path,) = local_files("stackoverflow-word", folder, *STACKOVERFLOW)
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


def _words(key: PRNGKeyArray) -> LanguageLSTM:
    return LanguageLSTM.stackoverflow(key=key)


def _transformer(key: PRNGKeyArray) -> LanguageTransformer:
    return LanguageTransformer.stackoverflow(key=key)


# The numbers of the special ones are the same for every vocabulary of this size.
_OF_WORDS = NextToken(masked=(0, 2, NUM_WORDS + 3), blocked=(0, 1, 2, NUM_WORDS + 3))
TASKS = (
    Task(
        name="shakespeare-character",
        make=_characters,
        **{**licence_of("shakespeare"), "data": "FedJAX's Shakespeare, of LEAF"},
        partition="by role",
        files=" and ".join(_SHAKESPEARE) + ", of FedJAX",
        reads=_shakespeare,
        **_next_token(Vocabulary.shakespeare()).parts(),
    ),
    Task(
        name="stackoverflow-word",
        make=_words,
        **licence_of("stackoverflow"),
        partition="by user",
        files=STACKOVERFLOW[0] + ", of TensorFlow Federated",
        reads=_stackoverflow,
        **_OF_WORDS.parts(),
    ),
    Task(
        name="stackoverflow-transformer",
        make=_transformer,
        **licence_of("stackoverflow"),
        partition="by user",
        files=STACKOVERFLOW[0] + ", of TensorFlow Federated",
        reads=_stackoverflow,
        **_OF_WORDS.parts(),
    ),
)
