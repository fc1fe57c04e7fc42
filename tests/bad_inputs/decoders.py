"""Language models of layers of attention, and the files that they are read from."""

import functools
import json
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from equifed import models

from .of_models import flags, keys
from .parts import counts
from .shared import KEY


SIZES = {
    "vocab_size": 5,
    "dim": 4,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 1,
    "mlp_size": 3,
    "max_length": 4,
}


def config(**changes):
    return models.LlamaConfig(**{**SIZES, **changes})


@functools.cache
def llama():
    return models.Llama(config(), key=KEY)


BERT = {k: v for k, v in SIZES.items() if k != "num_kv_heads"}


def bert_config(**changes):
    return models.BertConfig(**{**BERT, **changes})


@functools.cache
def bert():
    return models.Bert(bert_config(), key=KEY)


@functools.cache
def classifier():
    return models.BertClassifier(bert(), 2, key=KEY)


def encoders(model):
    """What BERT refuses, called and with a head."""
    return {
        **sequences(model),
        **beyond(model),
        "a mask of another length": (
            lambda: model()(np.ones(3, int), mask=np.ones(2, bool)),
            ValueError,
            ("`mask` must be true or false for each of the 3 tokens", "bool[2]"),
        ),
        "numbers for a mask": (
            lambda: model()(np.ones(3, int), mask=np.ones(3, int)),
            ValueError,
            "`mask` must be true or false for each of the 3 tokens, got int64[3]",
        ),
        "segments of another length": (
            lambda: model()(np.ones(3, int), types=np.ones(2, int)),
            ValueError,
            ("`types` must have an integer for each of the 3 tokens", "int64[2]"),
        ),
        "a segment that there is not": (
            lambda: model()(np.ones(3, int), types=np.array([0, 1, 7])),
            ValueError,
            "from 0 to 1, the model's 2 segments, got 7 at place 2",
        ),
    }


def beyond(model):
    return {
        "a token beyond the vocabulary": (
            lambda: model()(np.array([1, 5])),
            ValueError,
            ("of 5 tokens knows 0 to 4, got 5 at place 1", "the tokeniser"),
        ),
    }


@functools.cache
def folder(model_type):
    """A folder with a configuration alone."""
    path = pathlib.Path(tempfile.mkdtemp())
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    return path


def dtypes(make):
    words = "`dtype` must be one of floating-point numbers"
    return {
        f"weights of {x}": (functools.partial(make, x), ValueError, words)
        for x in ("int8", "complex64", "bf16")
    }


def sequences(model):
    """What each model of tokens refuses."""
    return {
        "fractions for tokens": (
            lambda: model()(jnp.ones(3)),
            ValueError,
            "`tokens` must be one sequence of integers, got float32[3]",
        ),
        "a batch": (
            lambda: model()(np.ones((2, 3), int)),
            ValueError,
            ("`tokens` must be one sequence", "jax.vmap"),
        ),
        "no token": (
            lambda: model()(np.ones(0, int)),
            ValueError,
            "`tokens` is empty",
        ),
        "text": (lambda: model()("to be"), TypeError, ("`tokens`", "'to be'")),
        "a sequence too long": (
            lambda: model()(np.ones(5, int)),
            ValueError,
            ("takes sequences of at most 4 tokens, got one of 5", "Cut the data"),
        ),
    }


WORDS = {"dim": 4, "num_layers": 1, "num_heads": 2, "mlp_size": 3, "max_length": 4}


def words(vocab_size=5, **changes):
    return models.LanguageTransformer(
        vocab_size, **{**WORDS, "dropout": 0.0, "key": KEY, **changes}
    )


TABLE = {
    "models.LanguageTransformer": {
        **keys(words),
        **{
            f"{name}: {case}": row
            for name in ("vocab_size", *WORDS)
            for case, row in counts(
                lambda x, name=name: words(**{name: x}), name=name, least=1
            ).items()
        },
        **sequences(words),
        "heads that do not divide": (
            lambda: words(num_heads=3),
            ValueError,
            ("`dim` must be even and a multiple", "dim=4 and num_heads=3"),
        ),
        "an odd width": (lambda: words(dim=3, num_heads=3), ValueError, "dim=3"),
        "all left out": (
            lambda: words(dropout=1.0),
            ValueError,
            "`dropout` must be less than 1, got 1",
        ),
        "dropout without a key": (
            lambda: words(dropout=0.1)(np.ones(3, int)),
            ValueError,
            ("needs a key", "inference_mode"),
        ),
    },
    "models.LanguageTransformer.stackoverflow": keys(
        models.LanguageTransformer.stackoverflow
    ),
    "models.LlamaConfig": {
        **{
            f"{name}: {case}": row
            for name in SIZES
            for case, row in counts(
                lambda x, name=name: config(**{name: x}), name=name, least=1
            ).items()
        },
        "heads that do not divide": (
            lambda: config(num_heads=3, num_kv_heads=2),
            ValueError,
            "`num_kv_heads` must divide `num_heads`, got 2 for 3",
        ),
        "a width that does not divide": (
            lambda: config(dim=5),
            ValueError,
            ("`num_heads` must divide `dim`", "got 2 for 5"),
        ),
        "an odd head": (
            lambda: config(head_size=3),
            ValueError,
            "A head must have an even size, for its numbers are turned in pairs, got 3",
        ),
        "no base": (
            lambda: config(rope_theta=0.0),
            ValueError,
            "`rope_theta` must be more than 0, got 0",
        ),
        "a negative epsilon": (
            lambda: config(norm_eps=-1e-5),
            ValueError,
            "`norm_eps` must be at least 0",
        ),
        "tied=1": (lambda: config(tied=1), TypeError, "`tied` must be"),
    },
    "models.Llama": {
        **keys(lambda key: models.Llama(config(), key=key)),
        **flags(lambda **x: models.Llama(config(), key=KEY, **x), "remat"),
        **dtypes(lambda x: models.Llama(config(), key=KEY, dtype=x)),
        **sequences(llama),
        **beyond(llama),
        "a dictionary for a configuration": (
            lambda: models.Llama(SIZES, key=KEY),
            TypeError,
            "`config` must be",
        ),
        "documents of another length": (
            lambda: llama()(np.ones(3, int), documents=np.ones(2, int)),
            ValueError,
            ("`documents` must have an integer for each of the 3 tokens", "int64[2]"),
        ),
    },
    "models.Llama.sharded": {
        "a mesh of clients alone": (
            lambda: llama().sharded(jax.make_mesh((1,), ("clients",))),
            ValueError,
            ("must have the axis 'model', but its axes are ('clients',)", "make_mesh"),
        ),
        "a mesh without clients": (
            lambda: llama().sharded(jax.make_mesh((1,), ("model",))),
            ValueError,
            "The mesh must have an axis 'clients'",
        ),
        "the devices for a mesh": (
            lambda: llama().sharded(jax.devices()),
            TypeError,
            "`mesh` must be",
        ),
    },
    "models.Llama.from_safetensors": {
        **flags(lambda **x: models.Llama.from_safetensors("x", **x), "remat"),
        "no folder": (
            lambda: models.Llama.from_safetensors(os.devnull),
            FileNotFoundError,
            "`folder` must have a file config.json",
        ),
        "another model": (
            lambda: models.Llama.from_safetensors(folder("bert")),
            ValueError,
            "must be of a model of type 'llama', got 'bert'",
        ),
        "no sizes": (
            lambda: models.Llama.from_safetensors(folder("llama")),
            ValueError,
            "does not say `num_attention_heads`",
        ),
        "a number": (
            lambda: models.Llama.from_safetensors(3),
            TypeError,
            "`folder` must be",
        ),
    },
    "models.Llama.from_gguf": {
        **flags(lambda **x: models.Llama.from_gguf("x", **x), "remat"),
        "no file": (
            lambda: models.Llama.from_gguf("no-such-file.gguf"),
            FileNotFoundError,
            "`path` must be a GGUF file, and is none: `no-such-file.gguf`",
        ),
        "a number": (
            lambda: models.Llama.from_gguf(3),
            TypeError,
            "`path` must be",
        ),
    },
    "models.gguf_tokenizer": {
        "no file": (
            lambda: models.gguf_tokenizer("no-such-file.gguf"),
            FileNotFoundError,
            "`path` must be a GGUF file, and is none: `no-such-file.gguf`",
        ),
        "a number": (
            lambda: models.gguf_tokenizer(3),
            TypeError,
            "`path` must be",
        ),
    },
    "models.BertConfig": {
        **{
            f"{name}: {case}": row
            for name in (*BERT, "num_types")
            for case, row in counts(
                lambda x, name=name: bert_config(**{name: x}), name=name, least=1
            ).items()
        },
        "heads that do not divide": (
            lambda: bert_config(num_heads=3),
            ValueError,
            "`num_heads` must divide `dim`, got 3 for 4",
        ),
        "a negative epsilon": (
            lambda: bert_config(norm_eps=-1e-5),
            ValueError,
            "`norm_eps` must be at least 0",
        ),
    },
    "models.Bert": {
        **keys(lambda key: models.Bert(bert_config(), key=key)),
        **flags(lambda **x: models.Bert(bert_config(), key=KEY, **x), "remat"),
        **dtypes(lambda x: models.Bert(bert_config(), key=KEY, dtype=x)),
        **encoders(bert),
        "a dictionary for a configuration": (
            lambda: models.Bert(BERT, key=KEY),
            TypeError,
            "`config` must be",
        ),
    },
    "models.Bert.pooled": encoders(lambda: bert().pooled),
    "models.Bert.from_safetensors": {
        **flags(lambda **x: models.Bert.from_safetensors("x", **x), "remat"),
        "no folder": (
            lambda: models.Bert.from_safetensors(os.devnull),
            FileNotFoundError,
            "`folder` must have a file config.json",
        ),
        "another model": (
            lambda: models.Bert.from_safetensors(folder("llama")),
            ValueError,
            "must be of a model of type 'bert', got 'llama'",
        ),
        "no sizes": (
            lambda: models.Bert.from_safetensors(folder("bert")),
            ValueError,
            "does not say `vocab_size`",
        ),
        "a number": (
            lambda: models.Bert.from_safetensors(3),
            TypeError,
            "`folder` must be",
        ),
    },
    "models.BertClassifier": {
        **keys(lambda key: models.BertClassifier(bert(), 2, key=key)),
        **counts(
            lambda x: models.BertClassifier(bert(), x, key=KEY),
            name="num_classes",
            least=2,
        ),
        **encoders(classifier),
        "another encoder": (
            lambda: models.BertClassifier(llama(), 2, key=KEY),
            TypeError,
            "`encoder` must be",
        ),
    },
}
