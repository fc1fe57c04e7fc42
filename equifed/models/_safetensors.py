"""Models as Hugging Face keeps them: a `config.json`, and weights by name."""

import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

import jax.random as jr
from jaxtyping import DTypeLike

from .._words import shown
from ._extra import safetensors
from ._llama_config import LlamaConfig
from ._weights import filled, shapes_of, Stored


Kind = TypeVar("Kind")

_WORDS = {
    "embedding": "model.embed_tokens",
    "layers": "model.layers",
    "norm": "model.norm",
    "output": "lm_head",
    "norm1": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "norm2": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
# What our Llama computes: a configuration may state it, and nothing else.
_FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
}


def read_llama(
    kind: type[Kind], folder: str | os.PathLike, *, remat: bool, dtype: DTypeLike | None
) -> Kind:
    folder = pathlib.Path(folder)
    said = config_of(folder, "llama", kind, _FIXED)
    config = _llama_config(said, folder / "config.json")
    model = shapes_of(kind, config, remat=remat, key=jr.key(0))
    stored = stored_in(folder)
    unused = [name for name in stored if name.endswith("rotary_emb.inv_freq")]
    unused += ["lm_head.weight"] if config.tied else []
    source = str(folder)
    return filled(model, stored, _WORDS, source=source, dtype=dtype, unused=unused)


def _llama_config(said: Mapping[str, Any], path: pathlib.Path) -> LlamaConfig:
    rope = said.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(
            f"`{path}` asks for positions of type {rope['rope_type']!r}; a `Llama` has "
            "the plain ones alone."
        )
    heads = wanted(said, "num_attention_heads", path)
    return LlamaConfig(
        vocab_size=wanted(said, "vocab_size", path),
        dim=wanted(said, "hidden_size", path),
        num_layers=wanted(said, "num_hidden_layers", path),
        num_heads=heads,
        num_kv_heads=said.get("num_key_value_heads") or heads,
        mlp_size=wanted(said, "intermediate_size", path),
        max_length=wanted(said, "max_position_embeddings", path),
        head_size=said.get("head_dim"),
        rope_theta=number({**said, **rope}, "rope_theta", path, 10_000.0),
        norm_eps=number(said, "rms_norm_eps", path, 1e-6),
        tied=said.get("tie_word_embeddings", False),
    )


def config_of(
    folder: pathlib.Path, model_type: str, kind: type, fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """What `config.json` says, if it is of a model of this type that computes what our
    kind does."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"`folder` must have a file config.json: `{folder}`.")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # Bytes that are no text are one, too.
        said = None
    if not isinstance(said, dict):
        raise ValueError(f"`{path}` must be a JSON object, and is none.")
    if said.get("model_type") != model_type:
        raise ValueError(
            f"`{path}` must be of a model of type {model_type!r}, got "
            f"{shown(said.get('model_type'))}."
        )
    for name, value in fixed.items():
        if said.get(name, value) != value:
            raise ValueError(
                f"`{path}` asks for {name}={said[name]!r}; a `{kind.__name__}` has "
                f"{name}={value!r} alone."
            )
    return said


def wanted(said: Mapping[str, Any], name: str, path: pathlib.Path) -> Any:
    """What the configuration must say."""
    if name not in said:
        raise ValueError(f"`{path}` does not say `{name}`.")
    return said[name]


def number(
    said: Mapping[str, Any], name: str, path: pathlib.Path, default: float
) -> float:
    """A number that the configuration may say."""
    x = said.get(name, default)
    if not isinstance(x, int | float) or isinstance(x, bool):
        raise ValueError(f"`{path}` must say a number for `{name}`, got {shown(x)}.")
    return float(x)


def stored_in(folder: pathlib.Path) -> dict[str, Stored]:
    """The weights of all files of a folder."""
    library = safetensors()
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"`folder` has no file *.safetensors: `{folder}`.")
    stored: dict[str, Stored] = {}
    for path in paths:
        try:
            with library.safe_open(path, "numpy") as file:
                names = file.keys()
                shapes = [tuple(file.get_slice(name).get_shape()) for name in names]
        except library.SafetensorError as error:
            raise ValueError(
                f"`{path}` is no safetensors file, or not a whole one: {error}. Copy "
                "it again."
            ) from error
        for name, shape in zip(names, shapes, strict=True):
            if name in stored:
                raise ValueError(
                    f"`{path}` has `{name}`, which another file of the folder has, "
                    "too. Leave the files of one model there."
                )
            stored[name] = Stored(shape, functools.partial(_read, path, name))
    return stored


def _read(path: pathlib.Path, name: str) -> Any:
    with safetensors().safe_open(path, "numpy") as file:
        return file.get_tensor(name)
