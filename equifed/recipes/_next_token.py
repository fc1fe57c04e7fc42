"""The loss of a sequence of tokens, and what is measured of it: as FedJAX does, and as
Reddi et al. do."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

from jaxtyping import Array, Float, Int

from .._measures import (
    oov_rate,
    Perplexity,
    sequence_cross_entropy,
    sequence_length,
    token_accuracy,
    token_count,
    token_cross_entropy,
    truncation_rate,
)


Logits: TypeAlias = Float[Array, "length vocabulary"]
Targets: TypeAlias = Int[Array, " length"]
Metrics: TypeAlias = dict[str, Any]

# What every `Vocabulary` has first.
PAD, BOS, EOS = 0, 1, 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextToken:
    """The loss of a sequence, the sum of that of its tokens over a number, and the
    metrics of its tokens.

    **Arguments:**

    - `oov`: the tokens that stand for unknown ones.
    - `accuracies`: what is measured beside the loss: of logits, targets and `oov`.
    - `over`: what the sum is divided by; the length of a sequence, if not given.
    """

    oov: tuple[int, ...]
    accuracies: Callable[[Logits, Targets, tuple[int, ...]], Metrics]
    over: float | None = None

    def logits(self, model, example, key):
        return model(example["x"], key=key)

    def loss(self, model, example, key):
        logits = self.logits(model, example, key)
        tokens = token_cross_entropy(logits, example["y"])
        over = example["y"].size if self.over is None else self.over
        return tokens.total / over, {"token_loss": tokens}

    def metrics(self, model, example, key):
        logits, y = self.logits(model, example, key), example["y"]
        return {
            "loss": token_cross_entropy(logits, y),
            "perplexity": Perplexity(logits, y),
            **self.accuracies(logits, y, self.oov),
        }

    def parts(self) -> dict[str, Any]:
        """What a task has of it; what is said of one label does not fit a sequence."""
        return {"loss": self.loss, "metrics": self.metrics, "label": "y"}


def of_known(logits: Logits, y: Targets, oov: tuple[int, ...]) -> Metrics:
    """`accuracy` is of tokens that are in the vocabulary, and no other is guessed."""
    special = (PAD, BOS, EOS, *oov)
    return {
        "accuracy": token_accuracy(logits, y, masked=(PAD, EOS, *oov), blocked=special),
        "accuracy_no_eos": token_accuracy(logits, y, masked=(PAD, EOS)),
    }


def as_fedjax(logits: Logits, y: Targets, oov: tuple[int, ...]) -> Metrics:
    """All that FedJAX's models of texts measure, by its names, beside `accuracy`.

    In `accuracy_in_vocab` an unknown token counts, and is never right.
    """
    special = (PAD, BOS, EOS, *oov)
    return {
        **of_known(logits, y, oov),
        "accuracy_in_vocab": token_accuracy(
            logits, y, masked=(PAD, EOS), blocked=special
        ),
        "num_tokens": token_count(y),
        "sequence_length": sequence_length(y),
        "sequence_loss": sequence_cross_entropy(logits, y),
        "token_loss": token_cross_entropy(logits, y),
        "token_oov_rate": oov_rate(y, oov=oov),
    }


def as_fedjax_words(logits: Logits, y: Targets, oov: tuple[int, ...]) -> Metrics:
    """What FedJAX measures of words: one metric more than of characters."""
    return {**as_fedjax(logits, y, oov), "truncation_rate": truncation_rate(y, eos=EOS)}


def of_all(logits: Logits, y: Targets, oov: tuple[int, ...]) -> Metrics:
    """`accuracy` is of all tokens but padding, and each may be guessed."""
    del oov
    return {"accuracy": token_accuracy(logits, y, masked=(PAD,))}


def of_words(logits: Logits, y: Targets, oov: tuple[int, ...]) -> Metrics:
    """The three accuracies of the Stack Overflow of Reddi et al., in which each word
    may be guessed; `accuracy` is the one without unknown words and ends."""
    known = (PAD, *oov)
    return {
        "accuracy": token_accuracy(logits, y, masked=(EOS, *known)),
        "accuracy_no_oov": token_accuracy(logits, y, masked=known),
        "accuracy_with_oov": token_accuracy(logits, y, masked=(PAD,)),
    }
