"""Texts as packed tokens: nothing is lost, documents stay apart."""

import functools
import json

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import equifed as eqf
from equifed import models
from equifed.data import FederatedDataset, sets, Vocabulary

from .shared import compilations, drawn


LETTERS = Vocabulary("abcdefgh")
END = LETTERS.eos
CONFIG = models.LlamaConfig(
    vocab_size=LETTERS.size,
    dim=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    mlp_size=8,
    max_length=8,
)


def clients(*texts, by, **more):
    columns = {"text": np.array(texts, object), **more}
    return FederatedDataset.from_arrays(columns, by=by)


def chunked(*texts, by, length):
    return sets.token_chunks(clients(*texts, by=by), LETTERS, length=length, end=END)


def test_chunks():
    dataset = clients("abc", "", "d", "efgh", by=["x", "x", "x", "y"])
    found = sets.token_chunks(dataset, LETTERS, length=3, end=END)
    a, b, c, d, e, f, g, h = LETTERS.encode("abcdefgh")
    # The end is asked and not read, for nothing follows it.
    own = found["x"]
    np.testing.assert_array_equal(own["x"], [[a, b, c], [d, END, END]])
    np.testing.assert_array_equal(own["y"], [[b, c, END], [END, -1, -1]])
    np.testing.assert_array_equal(own["document"], [[1, 1, 1], [1, 0, 0]])
    own = found["y"]
    np.testing.assert_array_equal(own["x"], [[e, f, g], [h, END, END]])
    np.testing.assert_array_equal(own["y"], [[f, g, h], [END, -1, -1]])
    assert all(x.dtype == np.int32 for x in own.values())


def test_documents_of_a_row_are_counted_from_one():
    dataset = clients("abcd", "efg", by=["x", "x"])
    own = sets.token_chunks(dataset, LETTERS, length=4, end=END)["x"]
    np.testing.assert_array_equal(own["document"], [[1, 1, 1, 1], [1, 1, 1, 0]])
    own = sets.token_chunks(dataset, LETTERS, length=5, end=END)["x"]
    np.testing.assert_array_equal(own["document"], [[1, 1, 1, 1, 2], [1, 1, 0, 0, 0]])


def question(row):
    return [("a" + row["text"], False), (row["answer"], True)]


def answers(*pairs, length, pack=True, **x):
    texts, replies = zip(*pairs, strict=True)
    dataset = clients(*texts, by=["x"] * len(pairs), answer=np.array(replies, object))
    made = sets.instructions(
        dataset,
        LETTERS,
        question,
        columns=["text", "answer"],
        length=length,
        end=END,
        pack=pack,
        **x,
    )
    return made["x"]


def instruct(dataset, tokenizer, **x):
    def template(row):
        return [(row["text"], True)]

    return sets.instructions(dataset, tokenizer, template, columns=["text"], **x)


def test_answers_alone_are_asked():
    own = answers(("b", "cd"), length=5)
    a, b, c, d = LETTERS.encode("abcd")
    np.testing.assert_array_equal(own["x"], [[a, b, c, END, END]])
    np.testing.assert_array_equal(own["y"], [[-1, c, d, -1, -1]])
    np.testing.assert_array_equal(own["document"], [[1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(own["cut"], [0])


@pytest.mark.parametrize("pack", [True, False])
def test_packing(pack):
    own = answers(("b", "cd"), ("", "gh"), ("e", "f"), length=5, pack=pack)
    sizes = [np.bincount(row)[1:].tolist() for row in own["document"]]
    assert sizes == ([[3, 2], [2]] if pack else [[3], [2], [2]])
    asked = own["y"][own["y"] >= 0]
    np.testing.assert_array_equal(asked, LETTERS.encode("cdghf"))


def test_what_is_cut_off_is_counted():
    words = "2 of 3 examples are longer than `length`, and 4 tokens .* of 1 nothing is"
    with pytest.warns(UserWarning, match=words):
        own = answers(("b", "cd"), ("bbbb", "c"), ("b", "cdefgh"), length=4, pack=False)
    np.testing.assert_array_equal(own["cut"], [0, 1, 3])
    assert (own["y"][1] == -1).all()
    np.testing.assert_array_equal(own["y"][2], [-1, *LETTERS.encode("cde")])


def test_answers_that_are_empty_are_counted():
    with pytest.warns(UserWarning, match="Of 1 of 3 examples nothing is asked: their"):
        own = answers(("b", "cd"), ("b", ""), ("", "gh"), length=5, pack=False)
    assert (own["y"] >= 0).sum(1).tolist() == [2, 0, 2]


def test_chat_ml():
    row = {"q": "Who?", "a": "Me."}
    pieces = sets.chat_ml("q", "a", system="Be brief.")(row)
    assert "".join(text for text, _ in pieces) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
        "<|im_start|>assistant\nMe.<|im_end|>"
    )
    assert [asked for _, asked in pieces] == [False, True]
    assert pieces[1] == ("Me.<|im_end|>", True)
    assert sets.chat_ml("q", "a")(row)[0][0].startswith("<|im_start|>user\nWho?")


TURNS = (("user", "ab"), ("assistant", "cd"), ("user", "e"), ("assistant", "fgh"))


def said(*turns):
    return json.dumps([{"role": role, "content": text} for role, text in turns])


def test_conversations_of_several_turns():
    row = {"chat": said(("system", "Be brief."), *TURNS)}
    pieces = sets.chat_ml_messages("chat", system="Sing.")(row)
    begin, end = "<|im_start|>", "<|im_end|>"
    assert pieces == [
        (
            f"{begin}system\nBe brief.{end}\n{begin}user\nab{end}\n{begin}assistant\n",
            False,
        ),
        (f"cd{end}", True),
        (f"\n{begin}user\ne{end}\n{begin}assistant\n", False),
        (f"fgh{end}", True),
    ]
    # One question and one answer are as `chat_ml` has them.
    one = sets.chat_ml_messages("chat", system="Sing.")({"chat": said(*TURNS[:2])})
    assert one == sets.chat_ml("q", "a", system="Sing.")({"q": "ab", "a": "cd"})


def turns(row):
    """The letters alone, which the vocabulary knows."""
    pieces = sets.chat_ml_messages("text")(row)
    return [("".join(c for c in t if c in "abcdefgh"), asked) for t, asked in pieces]


def test_every_answer_of_a_conversation_is_asked():
    dataset = clients(said(*TURNS), said(*TURNS[:2]), by=["x", "x"])
    whole = sets.instructions(
        dataset, LETTERS, turns, columns=["text"], length=60, end=END
    )["x"]
    long, short = (whole["document"] == number for number in (1, 2))
    asked = [x[x >= 0] for x in (whole["y"][long], whole["y"][short])]
    ends = LETTERS.encode("ed")  # what is left of <|im_end|>
    for found, texts in zip(asked, (("cd", "fgh"), ("cd",)), strict=True):
        expected = np.concatenate([[*LETTERS.encode(t), *ends] for t in texts])
        np.testing.assert_array_equal(found, expected)
    with pytest.warns(UserWarning, match="2 of 2 examples are longer"):
        cut = sets.instructions(
            dataset, LETTERS, turns, columns=["text"], length=8, end=END
        )["x"]
    sizes = np.array([long.sum(), short.sum()])
    np.testing.assert_array_equal(cut["cut"], sizes - 8)


def test_conversations_of_a_hugging_face_dataset():
    datasets = pytest.importorskip("datasets")
    talks = {"messages": [json.loads(said(*TURNS))] * 2, "user": ["x", "y"]}
    table = datasets.Dataset.from_dict(talks)
    text = table.map(
        lambda row: {"text": json.dumps(row["messages"])}, remove_columns="messages"
    )
    dataset = eqf.data.FederatedDataset.from_huggingface(text, by="user")
    form = {"columns": ["text"], "length": 60, "end": END}
    got = sets.instructions(dataset, LETTERS, turns, **form)
    expected = sets.instructions(
        clients(*[said(*TURNS)] * 2, by=["x", "y"]), LETTERS, turns, **form
    )
    for name in "xy":
        for column, values in expected[name].items():
            np.testing.assert_array_equal(got[name][column], values)


def test_a_conversation_that_is_none_is_named():
    dataset = clients(said(*TURNS), "Who?", by=["x", "y"])
    with pytest.raises(ValueError, match="JSON text of") as raised:
        sets.instructions(dataset, LETTERS, turns, columns=["text"], length=9, end=END)
    assert "client 'y'" in raised.value.__notes__[0]


def test_a_tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"<end>": 0, "to": 1, "be": 2, "<unk>": 3}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    dataset = clients("to be or", "be", by=["x", "y"])
    found = sets.token_chunks(dataset, tokenizer, length=3, end=0)
    np.testing.assert_array_equal(found["x"]["y"], [[2, 3, 0]])
    np.testing.assert_array_equal(found["y"]["y"], [[0, -1, -1]])


def loss(model, example, key):
    logits = model(example["x"], documents=example["document"])
    tokens = eqf.token_cross_entropy(logits, example["y"], masked=(-1,))
    perplexity = eqf.Perplexity(logits, example["y"], masked=(-1,))
    return tokens.total / example["y"].size, {"perplexity": perplexity}


@functools.cache
def llama(config=CONFIG):
    return drawn(lambda key: models.Llama(config, key=key), 0, 0.5)


def test_perplexity_is_exact_however_texts_are_packed():
    texts = ("abcdef", "gh", "c", "hgfedcb")
    model = llama()
    encoded = [LETTERS.encode(text) for text in texts]
    # One document at a time, without padding.
    alone = eqx.filter_jit(lambda model, all_ids: [model(ids) for ids in all_ids])
    losses = []
    for ids, logits in zip(encoded, alone(model, encoded), strict=True):
        logits = np.asarray(logits, np.float64)
        targets = np.append(ids[1:], END)
        sums = np.log(np.exp(logits).sum(-1))
        losses.append(sums - logits[np.arange(len(ids)), targets])
    expected = np.exp(np.concatenate(losses).mean())
    for by, length in ((["x", "y", "x", "z"], 8), (["x", "x", "x", "x"], 8)):
        dataset = chunked(*texts, by=by, length=length)
        found = eqf.evaluate(model, dataset, loss, batch_size=2)
        np.testing.assert_allclose(found["perplexity"], expected, rtol=1e-5)
    own = eqf.evaluate(model, dataset.select(["x"]), loss)
    np.testing.assert_allclose(own["perplexity"], expected, rtol=1e-5)


def test_perplexity_of_each_client():
    texts, by = ("abcdef", "gh", "c"), ["x", "y", "x"]
    model = llama()
    dataset = chunked(*texts, by=by, length=8)
    rows = eqf.evaluate(model, dataset, loss, per_client=True)
    for name in ("x", "y"):
        alone = eqf.evaluate(model, dataset.select([name]), loss)["perplexity"]
        own = rows.values["perplexity"][dataset.index(name)]
        np.testing.assert_allclose(own, alone, rtol=1e-5)
    none = eqf.Perplexity(jnp.ones((2, 3)), jnp.array([0, 0]))
    assert np.isnan(none.compute())


def test_tokens_beyond_the_vocabulary_are_named():
    known = LETTERS.size - 2
    dataset = clients("ab", "ah", by=["x", "y"])
    words = "A model of 10 tokens knows 0 to 9, got 10 in example 0 of client 'y'"
    for make in (sets.token_chunks, instruct):
        with pytest.raises(ValueError, match=words):
            make(dataset, LETTERS, length=2, end=END, vocab_size=known)
    # One that was not asked is found where it is read at the latest.
    first = chunked("ab", "ha", by=["x", "y"], length=2)
    config = models.LlamaConfig(**{**vars(CONFIG), "vocab_size": known})
    small = llama(config)
    with (
        compilations() as programs,
        pytest.raises(ValueError, match="'x' of client 'y' holds 10 in row 0"),
    ):
        eqf.evaluate(small, first, loss)
    assert len(programs) <= 5  # whether the number matters is tried in one
    # Also one that is to be predicted as well, whose cost is no number.
    middle = chunked("abc", "bha", by=["x", "y"], length=3)
    with pytest.raises(ValueError, match="'x' of client 'y' holds 10 in row 0"):
        eqf.evaluate(small, middle, loss)


def test_sequences_longer_than_the_model_takes():
    dataset = chunked("abcdefgha", by=["x"], length=9)
    with pytest.raises(ValueError, match="at most 8 tokens, got one of 9"):
        eqf.evaluate(llama(), dataset, loss)


def test_the_speakers_of_shakespeare(shared_data):
    path = shared_data / "shakespeare_by_speaker" / "all.parquet"
    lines = FederatedDataset.from_parquet(path, by="client_id", columns=["text"])
    lines = lines.filter(lambda name, _: name.startswith("hamlet/"))
    letters = Vocabulary.shakespeare()
    found = sets.token_chunks(lines, letters, length=64, end=letters.eos)
    seen, unseen = found.split_clients(0.3, seed=0)
    assert {*seen.client_ids, *unseen.client_ids} == {*lines.client_ids}
    # Of a speech every letter is read, all but the first are asked, and that it ends.
    for name in seen:
        count = sum(map(len, lines[name]["text"]))
        assert (seen[name]["document"] > 0).sum() == count
        assert (seen[name]["y"] >= 0).sum() == count
