"""Models as llama.cpp keeps them: one file, often of quantised weights.

Its rotary positions turn neighbours in a head, where Hugging Face's (and ours) turn an
entry of the first half with one of the second: the rows of queries' and keys' weights
are in another order.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax.random as jr
import numpy as np
from jaxtyping import DTypeLike, Float

from .._words import shown
from ._extra import gguf
from ._llama_config import LlamaConfig
from ._weights import filled, shapes_of, Stored


Kind = TypeVar("Kind")

_WORDS = {
    "embedding": "token_embd",
    "layers": "blk",
    "norm": "output_norm",
    "output": "output",
    "norm1": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "out": "attn_output",
    "norm2": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def read_llama(
    kind: type[Kind], path: str | os.PathLike, *, remat: bool, dtype: DTypeLike
) -> Kind:
    reader = opened(path)
    field = functools.partial(field_of, reader, path)
    if field("general.architecture") != "llama":
        raise ValueError(
            f"`{path}` must be of the architecture 'llama', got "
            f"{shown(field('general.architecture'))}."
        )
    scaling = field("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(
            f"`{path}` asks for positions of type {scaling!r}; a `Llama` has the plain "
            "ones alone."
        )
    tensors = {x.name: x for x in reader.tensors}
    config = _config(field, tied="output.weight" not in tensors)
    _check_readable(tensors, path)
    model = shapes_of(kind, config, remat=remat, key=jr.key(0))
    heads = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}
    stored = {}
    for name, x in tensors.items():
        shape = tuple(int(size) for size in reversed(x.shape))
        number = next((n for word, n in heads.items() if f".{word}." in name), None)
        stored[name] = Stored(shape, functools.partial(_read, x, number))
    return filled(model, stored, _WORDS, source=str(path), dtype=dtype)


def opened(path: str | os.PathLike) -> Any:
    """A reader of the file."""
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"`path` must be a GGUF file, and is none: `{path}`.")
    library = gguf()
    try:
        return library.GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"`path` must be a GGUF file, got `{path}`: {error}"
        ) from error


_NEEDED: Any = object()


def field_of(
    reader: Any, path: str | os.PathLike, name: str, default: Any = _NEEDED
) -> Any:
    """What the file says of itself."""
    field = reader.get_field(name)
    if field is None and default is _NEEDED:
        raise ValueError(f"`{path}` does not say `{name}`.")
    return default if field is None else field.contents()


def _config(field: Callable[..., Any], *, tied: bool) -> LlamaConfig:
    heads = field("llama.attention.head_count")
    return LlamaConfig(
        vocab_size=field("llama.vocab_size", None)
        or len(field("tokenizer.ggml.tokens")),
        dim=field("llama.embedding_length"),
        num_layers=field("llama.block_count"),
        num_heads=heads,
        num_kv_heads=field("llama.attention.head_count_kv", heads),
        mlp_size=field("llama.feed_forward_length"),
        max_length=field("llama.context_length"),
        head_size=field("llama.attention.key_length", None),
        rope_theta=field("llama.rope.freq_base", 10_000.0),
        norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
        tied=tied,
    )


def _check_readable(tensors: dict[str, Any], path: str | os.PathLike) -> None:
    """Refuses a kind of weights that `gguf` cannot make numbers of, by trying it on
    nothing."""
    library = gguf()
    for name, x in tensors.items():
        _, block = library.GGML_QUANT_SIZES[x.tensor_type]
        try:
            library.dequantize(np.zeros((1, block), np.uint8), x.tensor_type)
        except NotImplementedError as error:
            raise ValueError(
                f"`{name}` in `{path}` is of the type {x.tensor_type.name}, of which "
                "the package `gguf` can make no numbers. Take a file of F32, F16, BF16 "
                "or Q8_0."
            ) from error


def _read(x: Any, num_heads: int | None) -> Float[np.ndarray, "..."]:
    weight = gguf().dequantize(x.data, x.tensor_type)
    if num_heads is None:
        return weight
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)
