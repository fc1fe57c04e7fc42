"""The tokeniser that a GGUF file holds beside the weights.

It is one of the library `tokenizers`, put together from the file's own tokens and
merges: byte pairs, as of GPT-2. What is not in the file but in llama.cpp's code is how
a text is cut into words before pairs are merged; the file has a name for that alone.
"""

import functools
import os
from typing import Any

from .._check import checked
from .._words import shown
from ._extra import tokenizers
from ._gguf import field_of, opened


_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens, which are found as they stand

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@checked()
def gguf_tokenizer(path: str | os.PathLike) -> Any:
    """Reads the tokeniser of a model as llama.cpp keeps it. It needs the extra `llm`.

    Tokens that steer, as `<|im_start|>`, are found in texts as they stand.

    !!! example

        ```python
        path = "SmolLM2-135M-Instruct.Q8_0.gguf"
        model = eqf.models.Llama.from_gguf(path)
        tokenizer = eqf.models.gguf_tokenizer(path)
        end = tokenizer.token_to_id("<|im_end|>")
        clients = eqf.data.sets.token_chunks(clients, tokenizer, length=128, end=end)
        ```

    **Arguments:**

    - `path`: the file.

    **Returns:**

    A `tokenizers.Tokenizer`, for [`equifed.data.sets.token_chunks`][] and
    [`equifed.data.sets.instructions`][].

    **Raises:**

    `ValueError` if the file has no tokeniser, one of another kind than byte pairs, or
    one that cuts texts in a way that is not known here (known are `gpt-2`, `smollm` and
    `llama-bpe`). `FileNotFoundError` if there is no such file.
    """
    library = tokenizers()
    field = functools.partial(field_of, opened(path), path)
    kind = field("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ValueError(
            f"`{path}` has a tokeniser of the kind {shown(kind)}; one of byte pairs, "
            "'gpt2', can be read. Take the model's `tokenizer.json`, with "
            "`tokenizers.Tokenizer.from_file`."
        )
    cut, whole = _cut_into_words(field("tokenizer.ggml.pre"), path)
    names = field("tokenizer.ggml.tokens")
    numbers = {name: i for i, name in enumerate(names)}
    if len(numbers) < len(names):
        twice = next(x for i, x in enumerate(names) if numbers[x] != i)
        raise ValueError(f"`{path}` has the token {shown(twice)} twice.")
    merges = [tuple(x.split(" ")) for x in field("tokenizer.ggml.merges")]
    _check_merges(merges, numbers, path)
    pairs = library.models.BPE(vocab=numbers, merges=merges, ignore_merges=whole)
    tokenizer = library.Tokenizer(pairs)
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = library.decoders.ByteLevel()
    kinds = field("tokenizer.ggml.token_type", [])
    for name, of in zip(names, kinds, strict=False):
        if of in (_CONTROL, _USER_DEFINED):
            token = library.AddedToken(name, normalized=False, special=of == _CONTROL)
            tokenizer.add_tokens([token])
    if field("tokenizer.ggml.add_bos_token", None):
        number = field("tokenizer.ggml.bos_token_id")
        tokenizer.post_processor = library.processors.TemplateProcessing(
            single=f"{names[number]} $A", special_tokens=[(names[number], number)]
        )
    return tokenizer


def _cut_into_words(name: str, path: str | os.PathLike) -> tuple[Any, bool]:
    """What cuts a text into words, by llama.cpp's name; and whether a word that is a
    token is taken as such, whatever the merges make of it."""
    library = tokenizers()
    cut = library.pre_tokenizers
    if name == "gpt-2":
        return cut.ByteLevel(add_prefix_space=False), False
    if name == "smollm":
        digits = cut.Digits(individual_digits=True)
        return cut.Sequence([digits, cut.ByteLevel(add_prefix_space=False)]), False
    if name == "llama-bpe":
        words = cut.Split(library.Regex(_LLAMA_3), "isolated")
        plain = cut.ByteLevel(add_prefix_space=False, use_regex=False)
        return cut.Sequence([words, plain]), True
    raise ValueError(
        f"`{path}` cuts texts into words as {shown(name)} does; known are 'gpt-2', "
        "'smollm' and 'llama-bpe'. Take the model's `tokenizer.json`, with "
        "`tokenizers.Tokenizer.from_file`."
    )


def _check_merges(
    merges: list[tuple[str, ...]], numbers: dict[str, int], path: str | os.PathLike
) -> None:
    for merge in merges:
        if len(merge) != 2 or not {*merge, "".join(merge)} <= numbers.keys():
            raise ValueError(
                f"`{path}` merges {shown(' '.join(merge))}, which are not two tokens "
                "that make a third of the file's."
            )
