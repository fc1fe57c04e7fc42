"""The transformer of Stack Overflow's words."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Integer, PRNGKeyArray

from .._check import check_count, check_number, checked
from ._attention import visible
from ._inputs import check_tokens


def _uniform(layer: eqx.nn.Linear, limit: float, key: PRNGKeyArray) -> eqx.nn.Linear:
    """With uniform weights up to a limit, and biases of 0."""
    weight = jr.uniform(key, layer.weight.shape, minval=-limit, maxval=limit)
    bias = jnp.zeros(layer.weight.shape[0])
    return eqx.tree_at(lambda x: (x.weight, x.bias), layer, (weight, bias))


class _Layer(eqx.Module):
    """Attention and a perceptron, each beside a shortcut and before a normalisation."""

    attention: eqx.nn.MultiheadAttention
    norm1: eqx.nn.LayerNorm
    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear
    norm2: eqx.nn.LayerNorm
    dropout: eqx.nn.Dropout

    def __init__(
        self, dim: int, num_heads: int, mlp_size: int, dropout: float, key: PRNGKeyArray
    ):
        keys = jr.split(key, 6)
        attention = eqx.nn.MultiheadAttention(
            num_heads,
            dim,
            use_query_bias=True,
            use_key_bias=True,
            use_value_bias=True,
            use_output_bias=True,
            dropout_p=dropout,
            key=keys[0],
        )
        # Queries, keys and values are one matrix to PyTorch, and begin as one.
        limit = math.sqrt(6 / (4 * dim))
        self.attention = eqx.tree_at(
            lambda x: (x.query_proj, x.key_proj, x.value_proj, x.output_proj.bias),
            attention,
            (
                _uniform(attention.query_proj, limit, keys[1]),
                _uniform(attention.key_proj, limit, keys[2]),
                _uniform(attention.value_proj, limit, keys[3]),
                jnp.zeros(dim),
            ),
        )
        self.norm1, self.norm2 = eqx.nn.LayerNorm(dim), eqx.nn.LayerNorm(dim)
        self.dense1 = eqx.nn.Linear(dim, mlp_size, key=keys[4])
        self.dense2 = eqx.nn.Linear(mlp_size, dim, key=keys[5])
        self.dropout = eqx.nn.Dropout(dropout)

    def __call__(
        self, x: Float[Array, "length dim"], mask: Array, key: PRNGKeyArray | None
    ) -> Float[Array, "length dim"]:
        keys = (None,) * 4 if key is None else jr.split(key, 4)
        y = self.attention(x, x, x, mask, key=keys[0])
        x = jax.vmap(self.norm1)(x + self.dropout(y, key=keys[1]))
        y = self.dropout(jax.nn.relu(jax.vmap(self.dense1)(x)), key=keys[2])
        y = self.dropout(jax.vmap(self.dense2)(y), key=keys[3])
        return jax.vmap(self.norm2)(x + y)


class LanguageTransformer(eqx.Module):
    r"""A transformer that foretells the next token at each place of a sequence.

    The embedding times the root of its size, sinusoidal positions, layers of causal
    attention and of a perceptron with ReLU whose normalisations come last, and logits
    that are products with the embedding. A layer of width $d$ with $m$ units inside has
    $4 d^2 + 2 d m + 9 d + m$ parameters.

    `LanguageTransformer.stackoverflow` is that of pfl-research's benchmark, with
    1,962,912 parameters: $10{,}004 \times 96$ and $3 \times 334{,}176$. Embeddings
    begin uniform up to 0.05, layers as PyTorch's do, but each with weights of its own
    (there all layers begin as copies of one).

    Dropout takes its randomness from the loss's key: write `model(example["x"],
    key=key)`.

    ??? cite "References"

        Vaswani et al., *Attention is all you need* (1706.03762); Wang et al., *A field
        guide to federated optimization* (2107.06917), of which pfl-research names the
        model.
    """

    embedding: Float[Array, "vocabulary dim"]
    layers: tuple[_Layer, ...]
    max_length: int = eqx.field(static=True)

    @checked()
    def __init__(
        self,
        vocab_size: int,
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        mlp_size: int,
        max_length: int,
        dropout: float = 0.1,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `vocab_size`: how many tokens there are: `vocabulary.size`.
        - `dim`: the width of a layer, an even number.
        - `num_layers`: the number of layers.
        - `num_heads`: the heads of each attention, which must divide `dim`.
        - `mlp_size`: the width inside of a layer's perceptron.
        - `max_length`: the longest sequence.
        - `dropout`: the share of attention weights and of units that are left out.
        - `key`: the randomness of the first parameters.

        **Raises:**

        `ValueError` if the sizes do not fit each other.
        """
        for name, x in (
            ("vocab_size", vocab_size),
            ("dim", dim),
            ("num_layers", num_layers),
            ("num_heads", num_heads),
            ("mlp_size", mlp_size),
            ("max_length", max_length),
        ):
            check_count(name, x)
        check_number("dropout", dropout, least=0, below=1)
        if dim % num_heads or dim % 2:
            raise ValueError(
                "`dim` must be even and a multiple of `num_heads`, got "
                f"dim={dim} and num_heads={num_heads}."
            )
        first, *keys = jr.split(key, num_layers + 1)
        self.embedding = jr.uniform(first, (vocab_size, dim), minval=-0.05, maxval=0.05)
        self.layers = tuple(
            _Layer(dim, num_heads, mlp_size, float(dropout), key) for key in keys
        )
        self.max_length = max_length

    @classmethod
    @checked()
    def stackoverflow(
        cls, vocab_size: int = 10_004, *, key: PRNGKeyArray
    ) -> "LanguageTransformer":
        """That of Stack Overflow's words: three layers of 96 with 8 heads and 1,536
        units inside, for sequences of 20 words."""
        sizes = {"dim": 96, "num_layers": 3, "num_heads": 8, "mlp_size": 1536}
        return cls(vocab_size, **sizes, max_length=20, key=key)

    def __call__(
        self, tokens: Integer[Array, " length"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "length vocabulary"]:
        """The logits of the token after each of these.

        **Arguments:**

        - `tokens`: one sequence, of at most `max_length`.
        - `key`: what is left out. Not needed in inference mode, nor without dropout.
        """
        tokens = check_tokens(self, tokens, self.max_length)
        dropout = self.layers[0].dropout
        if key is None and dropout.p > 0 and not dropout.inference:
            raise ValueError(
                "`LanguageTransformer` leaves out units at random while it is trained, "
                "and needs a key: write `model(tokens, key=key)`. To evaluate it, "
                "write `eqx.nn.inference_mode(model)`."
            )
        x = self.embedding[tokens]
        x = x * math.sqrt(x.shape[1]) + _positions(*x.shape).astype(x.dtype)
        mask = visible(len(tokens), None)
        keys = [None] * len(self.layers)
        keys = keys if key is None else jr.split(key, len(keys))
        for layer, own in zip(self.layers, keys, strict=True):
            x = layer(x, mask, own)
        return x @ self.embedding.T


def _positions(length: int, dim: int) -> Float[Array, "length dim"]:
    """Sines at even places and cosines at odd ones, of wave lengths from 2 pi to
    20,000 pi."""
    rates = 10_000.0 ** (-jnp.arange(0, dim, 2, dtype=float) / dim)
    angles = jnp.arange(length, dtype=float)[:, None] * rates[None]
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(length, dim)
