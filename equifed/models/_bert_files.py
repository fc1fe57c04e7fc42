"""BERT as Hugging Face keeps it: a `config.json`, and weights by name."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

import jax.random as jr
from jaxtyping import DTypeLike

from ._bert_config import BertConfig
from ._safetensors import config_of, number, stored_in, wanted
from ._weights import filled, shapes_of


Kind = TypeVar("Kind")

_WORDS = {
    "embedding": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "layers": "encoder.layer",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
# What our BERT computes: a configuration may state it, and nothing else.
_FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
# What is beside the encoder, for its training.
_BESIDE = ("pooler.", "cls.", "embeddings.position_ids")
_OLDER = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_PREFIX = "bert."  # of files that have more than the encoder


def read_bert(
    kind: type[Kind], folder: str | os.PathLike, *, remat: bool, dtype: DTypeLike | None
) -> Kind:
    folder = pathlib.Path(folder)
    said = config_of(folder, "bert", kind, _FIXED)
    config = _config(said, folder / "config.json")
    model = shapes_of(kind, config, remat=remat, key=jr.key(0))
    stored = {_renamed(name): x for name, x in stored_in(folder).items()}
    unused = [name for name in stored if name.startswith(_BESIDE)]
    source = str(folder)
    return filled(model, stored, _WORDS, source=source, dtype=dtype, unused=unused)


def _renamed(name: str) -> str:
    """The name of an array as newer files have it."""
    name = name.removeprefix(_PREFIX)
    for old, new in _OLDER.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _config(said: Mapping[str, Any], path: pathlib.Path) -> BertConfig:
    return BertConfig(
        vocab_size=wanted(said, "vocab_size", path),
        dim=wanted(said, "hidden_size", path),
        num_layers=wanted(said, "num_hidden_layers", path),
        num_heads=wanted(said, "num_attention_heads", path),
        mlp_size=wanted(said, "intermediate_size", path),
        max_length=wanted(said, "max_position_embeddings", path),
        num_types=said.get("type_vocab_size", 2),
        norm_eps=number(said, "layer_norm_eps", path, 1e-12),
    )
