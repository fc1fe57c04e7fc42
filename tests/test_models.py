"""Models have the numbers of parameters that are reported for them, use all of these,
and compute what their papers say.
"""

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
from equifed.models._group_norm import GroupNorm

from .shared import drawn


KEY = jr.key(0)
SMOLLM2 = models.LlamaConfig(
    vocab_size=49_152,
    dim=576,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    mlp_size=1536,
    max_length=8192,
    tied=True,
)
TRANSFORMER: Any = {
    "dim": 6,
    "num_layers": 2,
    "num_heads": 3,
    "mlp_size": 5,
    "max_length": 8,
}
LLAMA = models.LlamaConfig(
    vocab_size=5,
    dim=8,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    mlp_size=6,
    max_length=9,
)
SHAPES = {
    "emnist conv": (lambda: models.ConvNet.emnist(key=KEY), 1_206_590),
    "digits conv": (
        lambda: models.ConvNet.emnist(only_digits=True, key=KEY),
        1_199_882,
    ),
    "pfl's cifar-10": (lambda: models.ConvNet.cifar10(key=KEY), 1_626_442),
    "emnist dense": (lambda: models.MLP.emnist(key=KEY), 209_662),
    "emnist logistic": (lambda: models.LogisticRegression.emnist(key=KEY), 48_670),
    "cifar-100 logistic": (
        lambda: models.LogisticRegression.cifar100(key=KEY),
        172_900,
    ),
    "shakespeare": (lambda: models.LanguageLSTM.shakespeare(key=KEY), 820_522),
    "shakespeare of tff": (
        lambda: models.LanguageLSTM.shakespeare(extra_tanh=False, key=KEY),
        820_522,
    ),
    "stack overflow": (lambda: models.LanguageLSTM.stackoverflow(key=KEY), 4_050_748),
    "stack overflow, tied": (
        lambda: models.LanguageLSTM.stackoverflow(tied=True, key=KEY),
        3_090_364,
    ),
    "resnet-18": (lambda: models.ResNet.resnet18(key=KEY), 11_173_962),
    "resnet-18, 100 classes": (
        lambda: models.ResNet.resnet18(100, key=KEY),
        11_220_132,
    ),
    "resnet-20": (lambda: models.ResNet.resnet20(key=KEY), 272_474),
    "lenet-5, grey": (lambda: models.LeNet5(key=KEY), 61_706),
    "lenet-5, colour": (lambda: models.LeNet5((32, 32, 3), key=KEY), 62_006),
    "lenet-5 of FedDyn": (
        lambda: models.LeNet5(
            (32, 32, 3), channels=(64, 64), units=(384, 192), key=KEY
        ),
        797_962,
    ),
    "vit": (lambda: models.ViT(key=KEY), 2_693_194),
    "stack overflow, transformer": (
        lambda: models.LanguageTransformer.stackoverflow(key=KEY),
        1_962_912,
    ),
    "smollm2-135m": (lambda: models.Llama(SMOLLM2, key=KEY), 134_515_008),
    "toy": (models.ToyRegression, 1),
}
TEXTS = dict.fromkeys(("lstm", "tied", "llama", "transformer"), (4, 5))


@pytest.mark.parametrize("name", SHAPES)
def test_number_of_parameters(name):
    make, count = SHAPES[name]
    shapes = jax.tree.leaves(eqx.filter_eval_shape(make))
    arrays = [x for x in shapes if isinstance(x, jax.ShapeDtypeStruct)]
    assert sum(math.prod(x.shape) for x in arrays) == count


def small(key):
    """A small one of each."""
    sizes: Any = {"embed_size": 3, "hidden_size": 4}
    return {
        "conv": models.ConvNet((6, 6, 1), 3, key=key),
        "logistic": models.LogisticRegression((6, 6, 1), 3, key=key),
        "mlp": models.MLP((6, 6, 1), 3, hidden_sizes=(20, 20), key=key),
        "lenet": models.LeNet5((12, 12, 1), 3, key=key),
        "resnet": models.ResNet((2, 4), (1, 1), 3, in_channels=2, key=key),
        "vit": models.ViT((8, 8, 2), 3, dim=6, num_layers=1, num_heads=2, key=key),
        "lstm": models.LanguageLSTM(5, **sizes, num_layers=2, key=key),
        "tied": models.LanguageLSTM(5, **sizes, project=True, tied=True, key=key),
        "transformer": models.LanguageTransformer(5, **TRANSFORMER, key=key),
        "llama": models.Llama(LLAMA, key=key),
        "toy": models.ToyRegression(0.5),
    }


def inputs():
    """What they are called on. An image is not all ones: a normalisation makes nothing
    of those."""
    rng = np.random.default_rng(0)
    shapes = dict.fromkeys(("conv", "logistic", "mlp"), (6, 6, 1))
    shapes |= {"lenet": (12, 12, 1), "resnet": (8, 8, 2), "vit": (8, 8, 2), "toy": (3,)}
    images = {n: rng.normal(1, 1, x).astype(np.float32) for n, x in shapes.items()}
    return images | dict.fromkeys(TEXTS, np.array([0, 4, 2, 4], np.uint8))


def test_all_parameters_are_used():
    @eqx.filter_jit
    def run(made, given, key):
        out = {}
        for name, model in made.items():

            def value(model, x=given[name]):
                logits = model(x, key=key)
                return jnp.sum(jnp.sin(3 * logits)), logits.shape

            out[name] = eqx.filter_grad(value, has_aux=True)(model)
        return out

    for name, (gradient, shape) in run(drawn(small, 0.1, 0.3), inputs(), KEY).items():
        expected = {**TEXTS, "toy": ()}.get(name, (3,))
        assert tuple(map(int, shape)) == expected, name
        for path, x in jax.tree_util.tree_leaves_with_path(gradient):
            where = f"{name}{jax.tree_util.keystr(path)}"
            assert np.isfinite(x).all(), where
            # A key's bias moves all of a query's products alike.
            assert (np.abs(x).max() > 1e-6) or "key_proj.bias" in where, where


def test_models_compute_in_the_dtype_of_their_parameters():
    def run(given, key):
        out = {}
        for name, model in small(key).items():
            arrays, rest = eqx.partition(model, eqx.is_array)
            half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), arrays)
            out[name] = eqx.combine(half, rest)(given[name], key=key)
        return out

    shapes = jax.eval_shape(run, inputs(), KEY)
    assert {name: x.dtype for name, x in shapes.items() if x.dtype != "bfloat16"} == {}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_of(layer, xs):
    """A cell of an LSTM, step by step: i, f, g, o."""
    w, u, b = (np.asarray(x, np.float64) for x in jax.tree.leaves(layer))
    h, c, out = np.zeros(u.shape[1]), np.zeros(u.shape[1]), []
    for x in xs:
        i, f, g, o = np.split(w @ x + u @ h + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.stack(out)


def language(model, tokens):
    embedding = np.asarray(model.embedding, np.float64)
    x = embedding[tokens]
    for layer in model.lstms:
        x = lstm_of(layer, x)
        x = np.tanh(x) if model.extra_tanh else x
    if model.projection is not None:
        x = x @ np.asarray(model.projection.weight).T + np.asarray(
            model.projection.bias
        )
    if model.output is None:
        return x @ embedding.T + np.asarray(model.bias)
    return x @ np.asarray(model.output.weight).T + np.asarray(model.output.bias)


def test_a_language_model():
    tokens = np.array([1, 4, 0, 2, 2], np.int32)
    kinds: Any = (
        {"num_layers": 2},
        {"extra_tanh": False},
        {"project": True},
        {"project": True, "tied": True, "extra_tanh": False},
    )

    @eqx.filter_jit
    def make(key):
        out = []
        for kind in kinds:
            model = models.LanguageLSTM(6, embed_size=3, hidden_size=4, key=key, **kind)
            bias = None if model.bias is None else jnp.arange(6.0)
            model = eqx.tree_at(
                lambda x: x.bias, model, bias, is_leaf=lambda x: x is None
            )
            out.append((model, model(jnp.asarray(tokens))))
        return out

    for model, logits in make(KEY):
        np.testing.assert_allclose(logits, language(model, tokens), atol=1e-5)


def test_how_the_parameters_begin():
    @eqx.filter_jit
    def make(key):
        recurrent = models.LanguageLSTM(500, embed_size=20, hidden_size=30, key=key)
        return recurrent, models.MLP((10, 10, 1), 50, key=key)

    recurrent, dense = make(KEY)
    lstm, size = recurrent.lstms[0], 1 / math.sqrt(50)
    # A normal distribution, cut at two standard deviations, has 0.88 of its own.
    for weight, scale in (
        (lstm.weight_ih, size),
        (lstm.weight_hh, size),
        (recurrent.embedding, 1.0),
        (dense.layers[0].weight, 0.1),
    ):
        assert np.abs(weight).max() <= 2 * scale
        np.testing.assert_allclose(np.std(weight), 0.8796 * scale, rtol=0.05)
    forget = np.repeat([0.0, 1.0, 0.0, 0.0], 30)
    np.testing.assert_array_equal(lstm.bias, forget)
    assert not np.any(dense.layers[0].bias)


def test_dropout_uses_the_key_of_the_loss():
    kwargs = {"dropout": (0.0, 0.5)}
    model = drawn(lambda key: models.ConvNet((6, 6, 1), 3, **kwargs, key=key), 0, 0.3)
    image = jnp.asarray(np.random.default_rng(1).normal(size=(6, 6, 1)), jnp.float32)

    @eqx.filter_jit
    def several(model, keys):
        return jax.vmap(lambda key: model(image, key=key))(keys)

    keys = jr.split(KEY, 500)
    each = np.asarray(several(model, keys))
    whole = eqx.nn.inference_mode(model)
    alone = np.asarray(several(whole, keys[:1]))[0]
    assert len(np.unique(each[:, 0])) > 400
    # Behind this dropout all is linear, so the mean of the logits is the whole model's.
    error = each.std(0) / math.sqrt(len(each))
    assert (np.abs(each.mean(0) - alone) < 4 * error).all()
    with pytest.raises(ValueError, match="needs a key: write `model"):
        model(image)
    np.testing.assert_allclose(whole(image), alone, rtol=1e-5)


def test_group_norm():
    x = np.random.default_rng(0).normal(1, 2, (3, 5, 6)).astype(np.float32)
    ours = GroupNorm(3, 6)
    theirs = eqx.nn.GroupNorm(3, 6)
    one, other = jax.jit(lambda x, y: (ours(x), theirs(y)))(x, np.moveaxis(x, -1, 0))
    np.testing.assert_allclose(np.moveaxis(one, -1, 0), other, atol=1e-5)
    half = eqx.tree_at(
        lambda n: (n.weight, n.bias), ours, (jnp.ones(6, "bfloat16"),) * 2
    )
    out = jax.eval_shape(half, jax.ShapeDtypeStruct((3, 5, 6), "bfloat16"))
    assert out.dtype == jnp.bfloat16


def test_a_model_is_trained():
    clients = eqf.data.digits()
    model = models.LogisticRegression((8, 8, 1), 10, key=KEY)

    def loss(model, example, key):
        image = example["image"][..., None].astype(jnp.float32) / 16
        logits = model(image, key=key)
        right = eqf.accuracy(logits, example["label"])
        return eqf.cross_entropy(logits, example["label"]), {"accuracy": right}

    algorithm = eqf.FedAvg(loss, optax.sgd(0.3), eqf.data.Epochs(1, batch_size=20))
    loader = eqf.data.Loader(
        clients, eqf.data.UniformSampler(7, seed=0), algorithm.batching
    )
    solution = eqf.train(algorithm, model, loader, num_rounds=6, key=KEY)
    assert solution.values("accuracy")[1][-1] > 0.8


def test_a_vocabulary_other_than_the_models():
    vocabulary = eqf.data.Vocabulary("abc")
    text = vocabulary.encode("abcd")

    def loss(model, example, key):
        tokens = eqf.token_cross_entropy(model(example["x"]), example["y"])
        return tokens.total / example["y"].size, {"token_loss": tokens}

    def evaluated(size, targets):
        columns = {"x": text[None, :-1], "y": targets[None]}
        clients = eqf.data.FederatedDataset.from_mapping({"anna": columns})
        sizes: Any = {"embed_size": 2, "hidden_size": 2}
        model = drawn(lambda key: models.LanguageLSTM(size, **sizes, key=key), 0, 0.5)
        return eqf.evaluate(model, clients, loss)["token_loss"]

    # A token that is read has no row: refused. One that is foretold has no logit: NaN.
    with pytest.raises(ValueError, match="'x' of client 'anna' holds 5 in row 0.*5 ro"):
        evaluated(vocabulary.size - 2, np.ones(3, np.int32))
    with pytest.warns(UserWarning, match="y from 4 to 6, and a label without a logit"):
        assert np.isnan(evaluated(vocabulary.size - 1, text[1:]))
    assert np.isfinite(evaluated(vocabulary.size, text[1:]))
