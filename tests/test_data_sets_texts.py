"""Sets of texts: small files of their schemas, through the call that loads them."""

import json

import datasets
import numpy as np
import pytest

import equifed.data as eqd
from equifed.data import sets

from .test_data_sqlite import example, tff_file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


SHAKESPEARE = eqd.Vocabulary.shakespeare()
LINE = (
    "To be, or not to be: that is the question:\nWhether \"'tis nobler in the minds, yé"
)
assert len(LINE) == 80


def shakespeare_file(path, rows):
    columns = dict(
        zip(("character_id", "x", "y"), zip(*rows, strict=True), strict=True)
    )
    table = datasets.Dataset.from_dict({n: list(c) for n, c in columns.items()})
    table.to_csv(path)
    return path


@pytest.mark.parametrize("streaming", [False, True])
def test_shakespeare_of_leaf(tmp_path, streaming):
    rows = [
        ("HAMLET_B", LINE, "a"),
        ("HAMLET_A", LINE[::-1], " "),
        ("HAMLET_B", LINE, "é"),
    ]
    path = shakespeare_file(tmp_path / "s.csv", rows)
    dataset = sets.shakespeare(data_files=path, streaming=streaming)
    assert dataset.client_ids == ["HAMLET_A", "HAMLET_B"]
    own = dataset["HAMLET_B"]
    assert own["x"].dtype == own["y"].dtype == np.int32
    want = [SHAKESPEARE.encode(c)[0] for c in LINE]
    assert own["x"].tolist() == [want, want]
    assert own["y"].tolist() == [*SHAKESPEARE.encode("a"), SHAKESPEARE.oov[0]]
    assert dataset["HAMLET_A"]["x"][0].tolist() == want[::-1]
    small = eqd.Vocabulary("To be", num_oov=3) if streaming else eqd.Vocabulary("obeT ")
    other = sets.shakespeare(data_files=path, vocabulary=small)
    assert other["HAMLET_A"]["y"].tolist() == small.encode(" ").tolist()


def test_what_is_wrong_in_shakespeare_is_named(tmp_path):
    rows = [("b", LINE, "a"), ("a", LINE, "b"), ("b", LINE + "!", "c")]
    path = shakespeare_file(tmp_path / "s.csv", rows)
    with pytest.raises(
        ValueError, match="80 characters, got 81 in example 1 of cl.*'b'"
    ):
        sets.shakespeare(data_files=path)
    path = shakespeare_file(tmp_path / "t.csv", [("b", LINE, "ab")])
    with pytest.raises(ValueError, match="'y' must hold 1 characters, got 2 in exam"):
        sets.shakespeare(data_files=path)
    words = eqd.Vocabulary(["to", "be"])
    with pytest.raises(
        ValueError, match="characters as its symbols, got one with 'to'"
    ):
        sets.shakespeare(data_files=path, vocabulary=words)


def snippets(**clients):
    columns = {
        client: {"snippets": np.array([*texts, None], object)[:-1]}
        for client, texts in clients.items()
    }
    return eqd.FederatedDataset.from_mapping(columns)


def test_character_chunks_are_fedjaxs():
    # Made by hand: 1, the characters, 2, again and again; then cut and padded with 0.
    clients = snippets(one=[b"ab", "c"], two=[b"abc"], none=[], long=["abcdef"])
    vocabulary = eqd.Vocabulary("abcde")
    dataset = sets.character_chunks(clients, length=4, vocabulary=vocabulary)
    a, b, c, d, e, oov = range(3, 9)
    assert dataset["one"]["x"].tolist() == [[1, a, b, 2], [1, c, 0, 0]]
    assert dataset["one"]["y"].tolist() == [[a, b, 2, 1], [c, 2, 0, 0]]
    assert dataset["two"]["x"].tolist() == [[1, a, b, c]]
    assert dataset["two"]["y"].tolist() == [[a, b, c, 2]]
    assert dataset["long"]["x"].tolist() == [[1, a, b, c], [d, e, oov, 0]]
    assert dataset["long"]["y"].tolist() == [[a, b, c, d], [e, oov, 2, 0]]
    assert dataset["none"]["x"].shape == (0, 4)
    assert dataset["one"]["x"].dtype == np.int32
    default = sets.character_chunks(snippets(a=["d9\r"]))["a"]
    assert default["x"][0, :5].tolist() == [1, *SHAKESPEARE.encode("d9\r"), 0]
    assert default["x"].shape == (1, 80)


def test_numbers_that_fedjax_publishes():
    # Those of its own tests.
    both = sets.character_chunks(snippets(a=[b"hello", b"hi there"]), length=10)["a"]
    assert both["x"].tolist() == [
        [1, 4, 67, 5, 5, 26, 2, 1, 4, 68],
        [16, 7, 4, 67, 48, 67, 0, 0, 0, 0],
    ]
    assert both["y"].tolist() == [
        [4, 67, 5, 5, 26, 2, 1, 4, 68, 16],
        [7, 4, 67, 48, 67, 2, 0, 0, 0, 0],
    ]
    texts = np.array([b"three four five", b"five three four five six"], object)
    clients = eqd.FederatedDataset.from_arrays({"text": texts}, by=[0, 0])
    vocabulary = eqd.Vocabulary(["three", "four", "five"])
    for length, x, y in (
        (2, [[1, 3], [1, 5]], [[3, 4], [5, 3]]),
        (
            5,
            [[1, 3, 4, 5, 0], [1, 5, 3, 4, 5]],
            [[3, 4, 5, 2, 0], [5, 3, 4, 5, 6]],
        ),
        (
            7,
            [[1, 3, 4, 5, 0, 0, 0], [1, 5, 3, 4, 5, 6, 0]],
            [[3, 4, 5, 2, 0, 0, 0], [5, 3, 4, 5, 6, 2, 0]],
        ),
    ):
        got = sets.next_words(clients, vocabulary, max_length=length)["0"]
        assert got["x"].tolist() == x
        assert got["y"].tolist() == y


def test_texts_that_are_none_are_named():
    with pytest.raises(ValueError, match="no UTF-8 in example 1 of client 'b'"):
        sets.character_chunks(snippets(a=["x"], b=["y", b"\xff"]))
    with pytest.raises(ValueError, match="must hold text, got 3 in example 0 of .*'b'"):
        sets.character_chunks(snippets(a=["x"], b=[3]))
    numbers = eqd.FederatedDataset.from_arrays({"text": np.ones(3)}, by=[0, 0, 1])
    with pytest.raises(ValueError, match="one text for each example, got float64"):
        sets.word_vocabulary(numbers, 3)


TALK = eqd.FederatedDataset.from_arrays(
    {
        "text": np.array(["to be or not to be", "be  that", "", "what is to be"]),
        "y": np.arange(4),
    },
    by=["a", "b", "b", "c"],
)


def test_word_vocabulary_is_by_frequency():
    vocabulary = sets.word_vocabulary(TALK, 4, num_oov=2)
    # be 4, to 3, and of those that are there once the first in the alphabet.
    assert vocabulary.symbols == ("be", "to", "is", "not")
    assert len(sets.word_vocabulary(TALK, 100).symbols) == 7


def test_next_words_are_fedjaxs():
    vocabulary = eqd.Vocabulary(["to", "be", "or"])
    to, be, either, oov = 3, 4, 5, 6
    dataset = sets.next_words(TALK, vocabulary, max_length=5)
    # The end is cut off with what is too long.
    assert dataset["a"]["x"].tolist() == [[1, to, be, either, oov]]
    assert dataset["a"]["y"].tolist() == [[to, be, either, oov, to]]
    assert dataset["b"]["x"].tolist() == [[1, be, oov, 0, 0], [1, 0, 0, 0, 0]]
    assert dataset["b"]["y"].tolist() == [[be, oov, 2, 0, 0], [2, 0, 0, 0, 0]]
    # Four words, and the end: just as long as there is room.
    assert dataset["c"]["x"].tolist() == [[1, oov, oov, to, be]]
    assert dataset["c"]["y"].tolist() == [[oov, oov, to, be, 2]]
    assert dataset["c"]["x"].dtype == np.int32
    labelled = TALK.rename({"y": "z"})
    assert set(sets.next_words(labelled, vocabulary).columns) == {"x", "y", "z"}
    padded = sets.padded_words(TALK, vocabulary, max_length=3)
    assert padded["a"]["x"].tolist() == [[to, be, either]]
    assert padded["b"]["x"].tolist() == [[be, oov, 0], [0, 0, 0]]
    assert padded["b"]["y"].tolist() == [1, 2]


def test_a_vocabulary_of_the_other_kind_is_refused():
    for call in (sets.next_words, sets.padded_words):
        with pytest.raises(ValueError, match="words as its symbols, got one of char"):
            call(TALK, SHAKESPEARE, max_length=3)
        with pytest.raises(ValueError, match="without spaces in them, got 'to be'"):
            call(TALK, eqd.Vocabulary(["to be", "or"]), max_length=3)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_stackoverflow(tmp_path, streaming, binary):
    tokens = ["to be or not", "be"]
    columns = {
        "client_id": ["u2", "u10"],
        "tokens": [t.encode() for t in tokens] if binary else tokens,
        "type": ["answer", "question"],
        "score": [1, 2],
    }
    if binary:
        datasets.Dataset.from_dict(columns).to_parquet(path := tmp_path / "a.parquet")
    else:
        lines = zip(*columns.values(), strict=True)
        text = "\n".join(json.dumps(dict(zip(columns, x, strict=True))) for x in lines)
        (path := tmp_path / "a.jsonl").write_text(text)
    vocabulary = eqd.Vocabulary(["to", "be"], num_oov=3)
    dataset = sets.stackoverflow(path, vocabulary, max_length=4, streaming=streaming)
    oov = vocabulary.encode(["or", "not"]).tolist()
    assert min(oov) >= 5
    assert dataset["u2"]["x"].tolist() == [[1, 3, 4, oov[0]]]
    assert dataset["u2"]["y"].tolist() == [[3, 4, *oov]]
    assert dataset["u10"]["y"].tolist() == [[4, 2, 0, 0]]
    assert [e["domain_id"].tolist() for _, e in dataset.items()] == [[1], [0]]
    with pytest.raises(ValueError, match="words as its symbols"):
        sets.stackoverflow(path, SHAKESPEARE)


def test_a_type_of_neither_is_named(tmp_path):
    columns = {
        "client_id": ["a", "b", "b"],
        "tokens": ["x"] * 3,
        "type": ["answer"] * 2,
    }
    columns["type"].append("comment")
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict(columns).to_parquet(path)
    with pytest.raises(ValueError, match="got 'comment' in example 1 of client 'b'"):
        sets.stackoverflow(path, eqd.Vocabulary(["to", "be"]))


@pytest.mark.parametrize("streaming", [False, True])
def test_sent140(tmp_path, streaming):
    columns = {
        "text": [
            "@Anna  LOVES http://t.co/x?y=1, it's 10,000 times better!! :)",
            "www.x.org is Über-bad",
            "meh",
        ],
        "date": ["Mon"] * 3,
        "user": ["u", "v", "u"],
        "sentiment": [4, 0, 2],
        "query": ["NO_QUERY"] * 3,
    }
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict(columns).to_parquet(path)
    dataset = sets.sent140(data_files=path, streaming=streaming)
    assert dataset["u"]["text"].tolist() == [
        "USERNAME loves URL it's NUMERIC times better",
        "meh",
    ]
    assert dataset["v"]["text"].tolist() == ["URL is über bad"]
    assert [e["y"].tolist() for _, e in dataset.items()] == [[1, 0], [0]]
    vocabulary = sets.word_vocabulary(dataset, 100)
    padded = sets.padded_words(dataset, vocabulary, max_length=4)
    assert set(padded.columns) == {"x", "y"}


def test_a_sentiment_that_is_none_is_named(tmp_path):
    columns = {"text": ["a", "b"], "user": ["u", "v"], "sentiment": [4, 3]}
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict(columns).to_parquet(path)
    with pytest.raises(
        ValueError, match="label 3 in example 0 of client 'v'; .* 0, 2 an"
    ):
        sets.sent140(data_files=path)


LINES = [
    "L1045 +++$+++ u0 +++$+++ m0 +++$+++ BIANCA +++$+++ They DON'T, caf\xe9 at 7:30!",
    "L1044 +++$+++ u2 +++$+++ m0 +++$+++ CAMERON +++$+++ They do to.",
    "L985 +++$+++ u0 +++$+++ m0 +++$+++ BIANCA +++$+++ ...",
    "L984 +++$+++ u2 +++$+++ m0 +++$+++ CAMERON +++$+++",
    "L925 +++$+++ u0 +++$+++ m0 +++$+++ BIANCA +++$+++ a +++$+++ <b>b</b>",
    "L924 +++$+++ u0 +++$+++ m0 +++$+++ BIANCA +++$+++ 12 CONTINUED: (2)",
]


@pytest.mark.parametrize("streaming", [False, True])
def test_cornell_movie_dialogs(tmp_path, streaming):
    path = tmp_path / "movie_lines.txt"
    path.write_bytes("\n".join(LINES).encode("iso-8859-1"))
    dataset = sets.cornell_movie_dialogs(data_files=path, streaming=streaming)
    assert dataset.client_ids == ["u0", "u2"]
    assert dataset["u0"]["text"].tolist() == ["they don't café at NUMERIC", "a b"]
    assert dataset["u2"]["text"].tolist() == ["they do to"]
    assert dataset["u2"]["name"].tolist() == ["CAMERON"]
    assert dataset["u2"]["movie"].tolist() == ["m0"]
    words = sets.word_vocabulary(dataset, 3)
    assert set(sets.next_words(dataset, words).columns) == {"x", "y"}


def test_a_movie_line_that_is_none_is_named(tmp_path):
    path = tmp_path / "movie_lines.txt"
    path.write_text("\n".join([LINES[1], "L1 +++$+++ u1"]))
    with pytest.raises(ValueError, match="Row 1 of the movie lines .* got 'L1 "):
        sets.cornell_movie_dialogs(data_files=path)
    path.write_text(LINES[2])
    with pytest.raises(ValueError, match="no word in them"):
        sets.cornell_movie_dialogs(data_files=[path])


def test_every_set_is_cited():
    names = ("shakespeare", "stackoverflow", "sent140", "cornell_movie_dialogs")
    for name in names:
        text = sets.cite(name)
        assert text.startswith("% https://")
        assert "% Licence: " in text
        assert callable(getattr(sets, name))


def test_stackoverflow_of_tensorflow_federateds_file(tmp_path):
    rows = [
        ("train", "u7", example(tokens=[b"to be"], type=[b"answer"], score=[3])),
        ("train", "u7", example(tokens=[b"be be"], type=[b"question"], score=[1])),
        ("test", "u8", example(tokens=[b"be"], type=[b"answer"], score=[2])),
    ]
    file = tff_file(tmp_path / "s.sqlite", rows)
    clients = eqd.from_tff_sqlite(file, split="train", columns=["tokens", "type"])
    words = sets.word_vocabulary(clients, 1, column="tokens")
    assert words.symbols == ("be",)
    clients.to_parquet(tmp_path / "s.parquet", by="client_id")
    dataset = sets.stackoverflow(tmp_path / "s.parquet", words, max_length=3)
    assert dataset["u7"]["x"].tolist() == [[1, 4, 3], [1, 3, 3]]
    assert dataset["u7"]["domain_id"].tolist() == [1, 0]
