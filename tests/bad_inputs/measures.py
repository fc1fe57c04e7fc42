"""Vocabularies, metrics of sequences, domains and two classes, and models."""

import functools

import jax.numpy as jnp
import numpy as np

import equifed as eqf

from .parts import counts
from .running import labels_and_logits, LOGITS


WORDS = eqf.data.Vocabulary(("to", "be"))

TARGETS = np.array([1, 2])
SEQUENCE = np.ones((2, 3), np.float32)
CLASSES = (eqf.Precision, eqf.Recall, eqf.F1)
WITH_LOGITS = {
    "token_cross_entropy": eqf.token_cross_entropy,
    "token_accuracy": eqf.token_accuracy,
    "sequence_cross_entropy": eqf.sequence_cross_entropy,
    "Perplexity": eqf.Perplexity,
    "token_top_k_accuracy": functools.partial(eqf.token_top_k_accuracy, k=1),
}
WITHOUT_LOGITS = {
    "token_count": eqf.token_count,
    "sequence_count": eqf.sequence_count,
    "sequence_length": eqf.sequence_length,
    "truncation_rate": functools.partial(eqf.truncation_rate, eos=2),
    "oov_rate": functools.partial(eqf.oov_rate, oov=(1,)),
}


def ids(make, *, name):
    """What several numbers of tokens may not be."""
    return {
        f"{name}=0": (
            lambda: make(0),
            TypeError,
            (f"`{name}` must be several integers", "got 0"),
        ),
        f"{name}=(0.5,)": (
            lambda: make((0.5,)),
            TypeError,
            f"`{name}` must be an integer, got 0.5",
        ),
        f"{name}='ab'": (lambda: make("ab"), TypeError, (f"`{name}`", "'ab'")),
    }


def sequences(make, name):
    """What all that take the targets of a sequence refuse."""
    return {
        **ids(lambda x: make(TARGETS, masked=x), name="masked"),
        "one target": (
            lambda: make(1),
            ValueError,
            (f"`{name}` is of ONE sequence", "of shape ()"),
        ),
        "a batch of targets": (
            lambda: make(np.ones((2, 2), int)),
            ValueError,
            ("is of ONE sequence", "(2, 2)", "jax.vmap"),
        ),
        "fractions for targets": (
            lambda: make(np.ones(2, np.float32)),
            TypeError,
            ("The targets of `", "must be integers, got float32[2]"),
        ),
        "no targets": (lambda: make(None), TypeError, "must be integers, got None"),
    }


def sequences_with_logits(make, name):
    return {
        **sequences(lambda targets, **kwargs: make(SEQUENCE, targets, **kwargs), name),
        "one vector of logits": (
            lambda: make(LOGITS, TARGETS),
            ValueError,
            (f"`{name}` is of ONE sequence", "have shape (3,)"),
        ),
        "a target too many": (
            lambda: make(SEQUENCE, np.ones(3, int)),
            ValueError,
            ("(2, 3)", "the targets (3,)"),
        ),
        "integers for logits": (
            lambda: make(np.ones((2, 3), int), TARGETS),
            TypeError,
            "must be floating-point numbers, got int",
        ),
    }


def blocked(function):
    def make(x):
        return function(SEQUENCE, TARGETS, blocked=x)

    return {
        **ids(make, name="blocked"),
        "a token without a logit": (
            lambda: make((3,)),
            ValueError,
            "`blocked` must be at most 2, got 3",
        ),
        "no token left": (
            lambda: make((0, 1, 2)),
            ValueError,
            "`blocked` must leave a token to be guessed, got all 3",
        ),
    }


TABLE = {
    **{name: sequences_with_logits(f, name) for name, f in WITH_LOGITS.items()},
    **{name: sequences(make, name) for name, make in WITHOUT_LOGITS.items()},
    **{
        kind.__name__: {
            **labels_and_logits(kind),
            "a batch": (
                lambda kind=kind: kind(jnp.ones((4, 3)), 0),
                ValueError,
                ("is of ONE example", "(4, 3)"),
            ),
            "average='weighted'": (
                lambda kind=kind: kind(LOGITS, 0, average="weighted"),
                ValueError,
                ("`average` must be 'macro', 'micro' or None", "'weighted'"),
            ),
        }
        for kind in CLASSES
    },
    "PerDomain": {
        **counts(
            lambda x: eqf.PerDomain(eqf.Average(1.0), 0, num_domains=x),
            name="num_domains",
            least=1,
        ),
        "a number for a metric": (
            lambda: eqf.PerDomain(1.0, 0, num_domains=2),
            TypeError,
            ("`metric` must be", "got 1.0", "`Average(x)`"),
        ),
        "a fraction for a domain": (
            lambda: eqf.PerDomain(eqf.Average(1.0), 0.5, num_domains=2),
            TypeError,
            "`domain` must be an integer, got float32[]",
        ),
        "several domains": (
            lambda: eqf.PerDomain(eqf.Average(1.0), TARGETS, num_domains=2),
            ValueError,
            ("of ONE example", "(2,)", "jax.vmap"),
        ),
    },
    "AUROC": {
        **counts(
            lambda x: eqf.AUROC(np.float32(0.5), 1, num_bins=x),
            name="num_bins",
            least=2,
        ),
        "a fraction for a label": (
            lambda: eqf.AUROC(np.float32(0.5), 0.5),
            TypeError,
            "The label of `AUROC` must be 0 or 1, got float32[]",
        ),
        "an integer for a score": (
            lambda: eqf.AUROC(1, 1),
            TypeError,
            ("The score of `AUROC`", "from 0 to 1, got"),
        ),
        "text for a score": (
            lambda: eqf.AUROC("high", 1),
            TypeError,
            ("The score of `AUROC`", "got 'high'"),
        ),
        "logits for a score": (
            lambda: eqf.AUROC(LOGITS, 1),
            ValueError,
            ("is of ONE example", "(3,)"),
        ),
    },
    "data.Vocabulary": {
        **counts(
            lambda x: eqf.data.Vocabulary("ab", num_oov=x), name="num_oov", least=1
        ),
        "a number": (
            lambda: eqf.data.Vocabulary(3),
            TypeError,
            ("`symbols` must be", "got 3"),
        ),
        "numbers": (
            lambda: eqf.data.Vocabulary((3,)),
            (TypeError, ValueError),
            ("`symbols` must be", "3"),
        ),
        "empty text": (
            lambda: eqf.data.Vocabulary(("a", "")),
            ValueError,
            ("`symbols` must be text that is not empty", "''"),
        ),
        "nothing": (
            lambda: eqf.data.Vocabulary(()),
            ValueError,
            "one symbol at least, got none",
        ),
        "a symbol twice": (
            lambda: eqf.data.Vocabulary("abca"),
            ValueError,
            ("all different, got 'a' twice", "dict.fromkeys"),
        ),
    },
    "data.Vocabulary.encode": {
        "text for words": (
            lambda: WORDS.encode("to be"),
            TypeError,
            ("`text` must be a list of words", "'to be'", "text.split()"),
        ),
        "a number": (lambda: WORDS.encode(3), TypeError, ("`text`", "got 3")),
        "numbers": (lambda: WORDS.encode([3]), TypeError, ("`text`", "got 3")),
        "bytes": (lambda: WORDS.encode(b"to"), TypeError, ("`text`", "b'to'")),
    },
    "data.Vocabulary.decode": {
        "a number that is none": (
            lambda: WORDS.decode([6]),
            ValueError,
            "`ids` must be at most 5, got 6",
        ),
        "text": (lambda: WORDS.decode("to"), TypeError, ("`ids`", "'t'")),
    },
}

TABLE["token_accuracy"] |= blocked(eqf.token_accuracy)
TABLE["token_top_k_accuracy"] |= {
    **blocked(WITH_LOGITS["token_top_k_accuracy"]),
    "k=4": (
        lambda: eqf.token_top_k_accuracy(SEQUENCE, TARGETS, k=4),
        ValueError,
        "`k` must be at most 3, got 4",
    ),
}
TABLE["truncation_rate"] |= {
    "eos=0.5": (
        lambda: eqf.truncation_rate(TARGETS, eos=0.5),
        TypeError,
        "`eos` must be an integer, got 0.5",
    ),
}
TABLE["oov_rate"] |= {
    **ids(lambda x: eqf.oov_rate(TARGETS, oov=x), name="oov"),
    "oov=()": (
        lambda: eqf.oov_rate(TARGETS, oov=()),
        ValueError,
        ("`oov` must be one token at least", "got none"),
    ),
}
