"""The recurrent language models of Shakespeare and of Stack Overflow."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Integer, PRNGKeyArray

from .. import nn
from .._check import check_count, checked
from ._inputs import check_tokens
from ._layers import cut_normal, linear, lstm


class LanguageLSTM(eqx.Module):
    """An LSTM that foretells the next token at each place of a sequence.

    An embedding, one or several LSTMs, perhaps a dense layer back to the embedding's
    size, and the logits: of a dense layer, or of the embedding itself.
    `LanguageLSTM.shakespeare` has 820,522 parameters, `LanguageLSTM.stackoverflow`
    4,050,748, or 3,090,364 with one table for input and output.

    FedJAX's models have one more tanh behind each LSTM, so these have it as well; those
    of Reddi et al. (2021) in TensorFlow Federated have not: `extra_tanh=False`. Weights
    begin as haiku's do: normal, cut at two standard deviations of 1 / sqrt(fan-in), of
    1 for the embedding; biases are 0, and 1 for the forget gates.

    How many numbers the model knows is the vocabulary's, which the data are made with.

    !!! example

        ```python
        vocabulary = eqf.data.Vocabulary.shakespeare()
        model = eqf.models.LanguageLSTM.shakespeare(vocabulary.size, key=key)

        def loss(model, example, key):
            tokens = eqf.token_cross_entropy(model(example["x"]), example["y"])
            return tokens.total / example["y"].size, {"token_loss": tokens}
        ```
    """

    embedding: Float[Array, "vocabulary embedding"]
    lstms: tuple[nn.LSTM, ...]
    projection: eqx.nn.Linear | None
    output: eqx.nn.Linear | None
    bias: Float[Array, " vocabulary"] | None
    extra_tanh: bool = eqx.field(static=True)

    @checked()
    def __init__(
        self,
        vocab_size: int,
        *,
        embed_size: int,
        hidden_size: int,
        num_layers: int = 1,
        project: bool = False,
        tied: bool = False,
        extra_tanh: bool = True,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `vocab_size`: how many tokens there are, the special ones among them:
            `vocabulary.size`.
        - `embed_size`: the size of the embedding.
        - `hidden_size`: the size of each LSTM.
        - `num_layers`: the number of LSTMs.
        - `project`: whether there is a dense layer back to the embedding's size.
        - `tied`: whether the logits are products with the embedding, and a bias.
        - `extra_tanh`: whether the tanh of what an LSTM gives goes on.
        - `key`: the randomness of the first parameters.

        **Raises:**

        `ValueError` if `tied` is asked for and the sizes do not allow it.
        """
        for name, x in (
            ("vocab_size", vocab_size),
            ("embed_size", embed_size),
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
        ):
            check_count(name, x)
        if tied and not project and hidden_size != embed_size:
            raise ValueError(
                "`tied` needs vectors of the embedding's size, got "
                f"`hidden_size={hidden_size}` and `embed_size={embed_size}`. Write "
                "`project=True`."
            )
        last = embed_size if project else hidden_size
        sizes = [embed_size, *[hidden_size] * num_layers]
        keys = jr.split(key, num_layers + 3)
        layers = zip(sizes[:-1], sizes[1:], keys[3:], strict=True)
        self.embedding = cut_normal(keys[0], (vocab_size, embed_size), 1)
        self.lstms = tuple(lstm(a, b, key=key) for a, b, key in layers)
        self.projection = (
            linear(hidden_size, embed_size, key=keys[1]) if project else None
        )
        self.output = None if tied else linear(last, vocab_size, key=keys[2])
        self.bias = jnp.zeros(vocab_size) if tied else None
        self.extra_tanh = extra_tanh

    @classmethod
    @checked()
    def shakespeare(
        cls, vocab_size: int = 90, *, extra_tanh: bool = True, key: PRNGKeyArray
    ) -> "LanguageLSTM":
        """That of Shakespeare's characters: an embedding of 8, two LSTMs of 256."""
        return cls(
            vocab_size,
            embed_size=8,
            hidden_size=256,
            num_layers=2,
            extra_tanh=extra_tanh,
            key=key,
        )

    @classmethod
    @checked()
    def stackoverflow(
        cls,
        vocab_size: int = 10_004,
        *,
        tied: bool = False,
        extra_tanh: bool = True,
        key: PRNGKeyArray,
    ) -> "LanguageLSTM":
        """That of Stack Overflow's words: an embedding of 96, an LSTM of 670, and a
        dense layer back to 96."""
        return cls(
            vocab_size,
            embed_size=96,
            hidden_size=670,
            project=True,
            tied=tied,
            extra_tanh=extra_tanh,
            key=key,
        )

    def __call__(
        self, tokens: Integer[Array, " length"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "length vocabulary"]:
        """The logits of the token after each of these.

        **Arguments:**

        - `tokens`: one sequence, of any length.
        - `key`: ignored; there as in models that need one.
        """
        del key
        tokens = check_tokens(self, tokens)
        x = self.embedding[tokens]
        for layer in self.lstms:
            x, _ = layer(x)
            x = jnp.tanh(x) if self.extra_tanh else x
        if self.projection is not None:
            x = jax.vmap(self.projection)(x)
        if self.output is not None:
            return jax.vmap(self.output)(x)
        logits = x @ self.embedding.T
        return logits if self.bias is None else logits + self.bias[None]
