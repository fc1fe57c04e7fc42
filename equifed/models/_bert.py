"""BERT, the encoder of most sentence embeddings, and a classifier on top of it."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, DTypeLike, Float, Integer, PRNGKeyArray

from .._check import check_count, checked
from ._attention import attention
from ._bert_config import BertConfig
from ._inputs import check_mask, check_tokens, check_types
from ._weights import check_dtype


def _linear(
    inputs: int, outputs: int, key: PRNGKeyArray, dtype: DTypeLike
) -> eqx.nn.Linear:
    """Normal weights of a standard deviation of 0.02 and biases of 0."""
    shape = eqx.filter_eval_shape(eqx.nn.Linear, inputs, outputs, key=key)
    weight = (0.02 * jr.normal(key, (outputs, inputs))).astype(dtype)
    bias = jnp.zeros(outputs, dtype)
    return eqx.tree_at(lambda x: (x.weight, x.bias), shape, (weight, bias))


def _table(rows: int, dim: int, key: PRNGKeyArray, dtype: DTypeLike):
    weight = (0.02 * jr.normal(key, (rows, dim))).astype(dtype)
    return eqx.nn.Embedding(weight=weight)


class _Layer(eqx.Module):
    """Attention and a perceptron, each beside a shortcut and before a normalisation."""

    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    out: eqx.nn.Linear
    norm1: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    norm2: eqx.nn.LayerNorm

    def __init__(self, config: BertConfig, key: PRNGKeyArray, dtype: DTypeLike):
        keys = jr.split(key, 6)
        dim, inside = config.dim, config.mlp_size
        self.query, self.key, self.value, self.out = (
            _linear(dim, dim, key, dtype) for key in keys[:4]
        )
        self.up = _linear(dim, inside, keys[4], dtype)
        self.down = _linear(inside, dim, keys[5], dtype)
        self.norm1, self.norm2 = (
            eqx.nn.LayerNorm(dim, eps=config.norm_eps, dtype=dtype) for _ in range(2)
        )

    def __call__(
        self, x: Float[Array, "length dim"], mask: Array, num_heads: int
    ) -> Float[Array, "length dim"]:
        heads = (len(x), num_heads, -1)
        query, key, value = (
            jax.vmap(layer)(x).reshape(heads)
            for layer in (self.query, self.key, self.value)
        )
        y = attention(query, key, value, mask).reshape(x.shape)
        x = jax.vmap(self.norm1)(x + jax.vmap(self.out)(y))
        y = jax.nn.gelu(jax.vmap(self.up)(x), approximate=False)
        return jax.vmap(self.norm2)(x + jax.vmap(self.down)(y))


class Bert(eqx.Module):
    r"""BERT's encoder: a vector for each token, which has seen all of its sequence.

    Embeddings of tokens, places and segments, added and normalised, and layers of

    $$x \leftarrow \mathrm{LN}(x + \mathrm{attention}(x)), \qquad
    x \leftarrow \mathrm{LN}(x + W_2\, \mathrm{gelu}(W_1 x)),$$

    with the exact $\mathrm{gelu}(x) = x \Phi(x)$. All that multiplies is an
    `equinox.nn.Linear` or `Embedding`, so that `equifed.nn.lora` finds it. There is no
    dropout, and no layer over the first token (BERT's *pooler*): `pooled` is the mean
    over tokens, as of sentence embeddings.

    Weights are read by `from_safetensors`, of MiniLM as of BERT itself, or begin at
    random: normal, with a standard deviation of 0.02.

    ??? cite "References"

        Devlin et al., *BERT* (1810.04805); Wang et al., *MiniLM* (2002.10957);
        Reimers and Gurevych, *Sentence-BERT* (1908.10084), for the mean over tokens.
    """

    embedding: eqx.nn.Embedding
    positions: eqx.nn.Embedding
    types: eqx.nn.Embedding
    norm: eqx.nn.LayerNorm
    layers: tuple[_Layer, ...]
    config: BertConfig = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    @checked()
    def __init__(
        self,
        config: BertConfig,
        *,
        remat: bool = False,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `config`: its sizes.
        - `remat`: gradient checkpointing: whether a layer is computed again for its
            gradient, so that only what goes from layer to layer is kept. The numbers
            are the same, a step takes about a third more time.
        - `dtype`: of the weights.
        - `key`: the randomness of the first parameters.
        """
        check_dtype(dtype)
        keys = jr.split(key, config.num_layers + 3)
        self.embedding = _table(config.vocab_size, config.dim, keys[0], dtype)
        self.positions = _table(config.max_length, config.dim, keys[1], dtype)
        self.types = _table(config.num_types, config.dim, keys[2], dtype)
        self.norm = eqx.nn.LayerNorm(config.dim, eps=config.norm_eps, dtype=dtype)
        self.layers = tuple(_Layer(config, key, dtype) for key in keys[3:])
        self.config = config
        self.remat = remat

    @classmethod
    @checked()
    def from_safetensors(
        cls,
        folder: str | os.PathLike,
        *,
        remat: bool = False,
        dtype: DTypeLike | None = None,
    ) -> "Bert":
        """Reads an encoder as Hugging Face keeps it. It needs the extra `llm`.

        What the file has for its own training (a pooler, a head that guesses masked
        tokens) is left out.

        **Arguments:**

        - `folder`: one with `config.json` and one `.safetensors` file or several.
        - `remat`: as above.
        - `dtype`: of the weights; as they are kept, by default.

        **Raises:**

        `ValueError` if what is in there is no BERT, has a part that this one has not
        (relative positions, another nonlinearity), or lacks a weight.
        `FileNotFoundError` if there is no such folder or no such file in it.
        """
        from ._bert_files import read_bert

        return read_bert(cls, folder, remat=remat, dtype=dtype)

    def __call__(
        self,
        tokens: Integer[Array, " length"],
        *,
        mask: Bool[Array, " length"] | None = None,
        types: Integer[Array, " length"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "length dim"]:
        """The vectors of the tokens.

        **Arguments:**

        - `tokens`: one sequence, of at most `max_length`, with the tokens that begin
            and end it (`[CLS]`, `[SEP]`).
        - `mask`: which of them are text; no token looks at the others, the padding. By
            default all.
        - `types`: the segment of each, 0 by default.
        - `key`: ignored; there as in models that need one.
        """
        del key
        config = self.config
        tokens = check_tokens(self, tokens, config.max_length, config.vocab_size)
        mask = check_mask(mask, tokens)
        types = check_types(types, tokens, config.num_types)
        # Padding looks at itself, for a mean over nothing would be no number.
        seen = mask[None] | jnp.eye(len(tokens), dtype=bool)
        x = jax.vmap(self.embedding)(tokens) + jax.vmap(self.types)(types)
        x = x + self.positions.weight[: len(tokens)]
        x = jax.vmap(self.norm)(x)
        for layer in self.layers:
            run = eqx.filter_checkpoint(layer) if self.remat else layer
            x = run(x, seen, config.num_heads)
        return x

    def pooled(
        self,
        tokens: Integer[Array, " length"],
        *,
        mask: Bool[Array, " length"] | None = None,
        types: Integer[Array, " length"] | None = None,
    ) -> Float[Array, " dim"]:
        """The mean of the vectors over what is text: the embedding of a sentence.

        **Arguments:** those of a call. A sequence of padding alone has NaN.
        """
        vectors = self(tokens, mask=mask, types=types)
        shares = check_mask(mask, jnp.asarray(tokens)).astype(vectors.dtype)
        return shares @ vectors / jnp.sum(shares)


class BertClassifier(eqx.Module):
    """An encoder, and a linear layer on the mean of its vectors over a text.

    !!! example

        ```python
        encoder = eqf.models.Bert.from_safetensors("all-MiniLM-L6-v2")
        model = eqf.models.BertClassifier(encoder, 2, key=key)
        head = eqf.roles(model, shared=lambda m: m.head)

        def loss(model, example, key):
            logits = model(example["x"], mask=example["mask"])
            right = eqf.accuracy(logits, example["label"])
            return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}
        ```
    """

    encoder: Bert
    head: eqx.nn.Linear

    @checked()
    def __init__(self, encoder: Bert, num_classes: int, *, key: PRNGKeyArray):
        """**Arguments:**

        - `encoder`: what makes vectors of tokens.
        - `num_classes`: how many there are.
        - `key`: the randomness of the layer's first weights.
        """
        check_count("num_classes", num_classes, least=2)
        dtype = encoder.embedding.weight.dtype
        self.encoder = encoder
        self.head = _linear(encoder.config.dim, num_classes, key, dtype)

    def __call__(
        self,
        tokens: Integer[Array, " length"],
        *,
        mask: Bool[Array, " length"] | None = None,
        types: Integer[Array, " length"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " classes"]:
        """The logits of the classes.

        **Arguments:** those of a [`equifed.models.Bert`][].
        """
        del key
        return self.head(self.encoder.pooled(tokens, mask=mask, types=types))
