"""Llama, small enough to read: the decoder of most open language models."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, DTypeLike, Float, Integer, PRNGKeyArray

from .._check import checked
from .._tree import wide_dtype
from ._attention import attention, rotated, visible
from ._inputs import check_documents, check_tokens
from ._llama_config import LlamaConfig
from ._llama_sharding import sharded_llama
from ._weights import check_dtype


class _RMSNorm(eqx.Module):
    r"""$w x / \sqrt{\mathrm{mean}(x^2) + \epsilon}$, computed in float32 at least."""

    weight: Float[Array, " dim"]
    eps: float = eqx.field(static=True)

    def __call__(self, x: Float[Array, "length dim"]) -> Float[Array, "length dim"]:
        wide = x.astype(wide_dtype(x.dtype))
        square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        return (wide * jax.lax.rsqrt(square + self.eps)).astype(x.dtype) * self.weight[
            None
        ]


def _linear(
    inputs: int, outputs: int, key: PRNGKeyArray, dtype: DTypeLike
) -> eqx.nn.Linear:
    """Normal weights of a standard deviation of 0.02, as `transformers` begins."""
    shape = eqx.filter_eval_shape(
        eqx.nn.Linear, inputs, outputs, use_bias=False, dtype=dtype, key=key
    )
    weight = (0.02 * jr.normal(key, (outputs, inputs))).astype(dtype)
    return eqx.tree_at(lambda x: x.weight, shape, weight)


class _Layer(eqx.Module):
    """Attention and a perceptron, each behind a normalisation and beside a shortcut."""

    norm1: _RMSNorm
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    out: eqx.nn.Linear
    norm2: _RMSNorm
    gate: eqx.nn.Linear
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, config: LlamaConfig, key: PRNGKeyArray, dtype: DTypeLike):
        keys = jr.split(key, 7)
        dim, inside, size = config.dim, config.mlp_size, config.size_of_head
        heads, shared = config.num_heads * size, config.num_kv_heads * size
        self.norm1, self.norm2 = (
            _RMSNorm(jnp.ones(dim, dtype), config.norm_eps) for _ in range(2)
        )
        self.query = _linear(dim, heads, keys[0], dtype)
        self.key = _linear(dim, shared, keys[1], dtype)
        self.value = _linear(dim, shared, keys[2], dtype)
        self.out = _linear(heads, dim, keys[3], dtype)
        self.gate = _linear(dim, inside, keys[4], dtype)
        self.up = _linear(dim, inside, keys[5], dtype)
        self.down = _linear(inside, dim, keys[6], dtype)

    def __call__(
        self, x: Float[Array, "length dim"], mask: Array, config: LlamaConfig
    ) -> Float[Array, "length dim"]:
        y = self.norm1(x)
        heads = (len(x), -1, config.size_of_head)
        query, key, value = (
            jax.vmap(layer)(y).reshape(heads)
            for layer in (self.query, self.key, self.value)
        )
        query, key = (rotated(z, config.rope_theta) for z in (query, key))
        y = attention(query, key, value, mask)
        x = x + jax.vmap(self.out)(y.reshape(len(x), -1))
        y = self.norm2(x)
        y = jax.nn.silu(jax.vmap(self.gate)(y)) * jax.vmap(self.up)(y)
        return x + jax.vmap(self.down)(y)


class Llama(eqx.Module):
    r"""A Llama: what token follows, at each place of a sequence.

    Layers of causal attention with rotary positions and shared keys and values, and of
    a perceptron $W_3(\mathrm{silu}(W_1 x) \odot W_2 x)$, both behind an RMS
    normalisation. All that multiplies is an `equinox.nn.Linear` or `Embedding`, so that
    `equifed.nn.lora` finds it. Normalisations and the softmax are computed in float32
    at least, the rest in the dtype of the weights.

    Weights are read by `from_safetensors` and `from_gguf`, or begin at random: normal,
    with a standard deviation of 0.02.

    !!! example

        ```python
        model = eqf.models.Llama.from_gguf("SmolLM2-135M-Instruct.Q8_0.gguf")

        def loss(model, example, key):
            logits = model(example["x"], documents=example["document"])
            tokens = eqf.token_cross_entropy(logits, example["y"], masked=(-1,))
            return tokens.total / example["y"].size, {"token_loss": tokens}
        ```

    ??? cite "References"

        Touvron et al., *LLaMA: Open and efficient foundation language models*
        (2302.13971); Ainslie et al., *GQA* (2305.13245), for the shared keys and
        values; Su et al., *RoFormer* (2104.09864), for the positions.
    """

    embedding: eqx.nn.Embedding
    layers: tuple[_Layer, ...]
    norm: _RMSNorm
    output: eqx.nn.Linear | None
    config: LlamaConfig = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    @checked()
    def __init__(
        self,
        config: LlamaConfig,
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
        keys = jr.split(key, config.num_layers + 2)
        table = (0.02 * jr.normal(keys[0], (config.vocab_size, config.dim))).astype(
            dtype
        )
        self.embedding = eqx.nn.Embedding(weight=table)
        self.layers = tuple(_Layer(config, key, dtype) for key in keys[2:])
        self.norm = _RMSNorm(jnp.ones(config.dim, dtype), config.norm_eps)
        self.output = (
            None
            if config.tied
            else _linear(config.dim, config.vocab_size, keys[1], dtype)
        )
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
    ) -> "Llama":
        """Reads a model as Hugging Face keeps it. It needs the extra `llm`.

        **Arguments:**

        - `folder`: one with `config.json` and one `.safetensors` file or several.
        - `remat`: as above.
        - `dtype`: of the weights; as they are kept, by default.

        **Raises:**

        `ValueError` if what is in there is no Llama, has a part that this one has not
        (biases, scaled positions), or lacks a weight. `FileNotFoundError` if there is
        no such folder or no such file in it.
        """
        from ._safetensors import read_llama

        return read_llama(cls, folder, remat=remat, dtype=dtype)

    @classmethod
    @checked()
    def from_gguf(
        cls,
        path: str | os.PathLike,
        *,
        remat: bool = False,
        dtype: DTypeLike = jnp.float32,
    ) -> "Llama":
        """Reads a model as llama.cpp keeps it; quantised weights are made numbers
        again. It needs the extra `llm`.

        **Arguments:**

        - `path`: the file.
        - `remat`: as above.
        - `dtype`: of the weights.

        **Raises:**

        `ValueError` if it is no Llama, has a part that this one has not, lacks a
        weight, or has one of a kind that cannot be read. `FileNotFoundError` if there
        is no such file.
        """
        from ._gguf import read_llama

        return read_llama(cls, path, remat=remat, dtype=dtype)

    @checked()
    def sharded(self, mesh: Mesh, *, axis: str = "model") -> "Llama":
        """The model, spread over the devices along an axis of a mesh, so that each
        holds its share of every matrix: for one that a device cannot hold whole.

        A device has some of the heads, some of what is inside of the perceptrons and
        some of the vocabulary, with what [`equifed.nn.lora`][] has put beside them;
        where the number of devices does not divide these, a share of the layer's width.
        Normalisations, and the half of an adapter that is not along such a share, are
        on each. Over the axis `clients` all devices have the same.

        **Arguments:**

        - `mesh`: the loader's, with an axis `clients` and this one.
        - `axis`: its name.

        **Raises:**

        `ValueError` if the mesh has no such axis, or the devices along it do not divide
        `dim`.

        !!! example

            ```python
            with jax.default_device(jax.devices("cpu")[0]):  # It fits the host.
                model = eqf.models.Llama.from_safetensors("folder", dtype=jnp.bfloat16)
                model = eqf.nn.lora(model, 16, key=jr.key(0))
            mesh = jax.make_mesh((2, 4), ("clients", "model"))
            model = model.sharded(mesh)
            loader = eqf.data.Loader(clients, sampler, batching, mesh=mesh)
            ```
        """
        return sharded_llama(self, mesh, axis)

    def __call__(
        self,
        tokens: Integer[Array, " length"],
        *,
        documents: Integer[Array, " length"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "length vocabulary"]:
        """The logits of the token after each of these.

        **Arguments:**

        - `tokens`: one sequence, of at most `max_length`.
        - `documents`: the number of the document that each token belongs to, where a
            sequence is packed with several: a token looks at its own alone, and its
            logits are those that it would have without the others.
        - `key`: ignored; there as in models that need one.
        """
        del key
        config = self.config
        tokens = check_tokens(self, tokens, config.max_length, config.vocab_size)
        documents = check_documents(documents, tokens)
        mask = visible(len(tokens), documents)
        x = jax.vmap(self.embedding)(tokens)
        for layer in self.layers:
            run = eqx.filter_checkpoint(layer) if self.remat else layer
            x = run(x, mask, self.config)
        x = self.norm(x)
        if self.output is not None:
            return jax.vmap(self.output)(x)
        return x @ self.embedding.weight.T
