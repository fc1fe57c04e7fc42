"""Vocabularies, metrics of sequences, domains and two classes, and models."""

import equifed as eqf

from .parts import counts


WORDS = eqf.data.Vocabulary(("to", "be"))

TABLE = {
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
