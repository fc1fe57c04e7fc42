"""Layers with a change of low rank: what they compute, and what it costs to train them.

Methods that average them are in `conformance/test_low_rank.py`; that how they are run
changes nothing is in `test_laws.py`.
"""

import json
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed.nn import adapters, LoRA, lora, lora_a, lora_b, merge

from .shared import drawn


KEY, SGD = jr.key(0), optax.sgd(0.1)
RNG = np.random.default_rng(0)


class Model(eqx.Module):
    """Words to numbers."""

    embedding: eqx.nn.Embedding
    hidden: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, key=KEY):
        keys = jr.split(key, 3)
        self.embedding = eqx.nn.Embedding(7, 4, key=keys[0])
        self.hidden = eqx.nn.Linear(4, 5, key=keys[1])
        self.head = eqx.nn.Linear(5, "scalar", key=keys[2])

    def __call__(self, word):
        return self.head(jnp.tanh(self.hidden(self.embedding(word))))


def moved(model: Any) -> Any:
    """With adapters that have learnt something."""
    new = [jnp.asarray(RNG.normal(size=b.shape), b.dtype) for b in lora_b(model)]
    return eqx.tree_at(lora_b, model, tuple(new))


def test_a_linear_layer():
    layer = eqx.nn.Linear(4, 3, key=KEY)
    adapted = moved(lora(layer, 2, alpha=6, key=KEY))
    x = jnp.asarray(RNG.normal(size=4), jnp.float32)
    w, bias, a, b = map(np.asarray, (layer.weight, layer.bias, adapted.a, adapted.b))
    assert a.shape == (2, 4)
    assert b.shape == (3, 2)
    np.testing.assert_allclose(
        adapted(x), w @ x + bias + 6 / 2 * b @ (a @ x), rtol=1e-5
    )
    merged = merge(adapted)
    assert type(merged) is eqx.nn.Linear
    np.testing.assert_allclose(merged.weight, w + 3 * b @ a, rtol=1e-5)
    np.testing.assert_allclose(merged(x), adapted(x), rtol=1e-5)


def test_an_embedding():
    table = eqx.nn.Embedding(7, 4, key=KEY)
    adapted = moved(lora(table, 2, where=lambda m: m, key=KEY))
    expected = table.weight + (adapted.b @ adapted.a).T
    for i in range(7):
        np.testing.assert_allclose(adapted(jnp.array(i)), expected[i], rtol=1e-5)
    np.testing.assert_allclose(merge(adapted).weight, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("where", "adapted"),
    [
        (None, "hidden head"),
        (lambda m: m, "embedding hidden head"),
        (lambda m: (m.embedding, m.head), "embedding head"),
        (lambda m: m.hidden.weight, "hidden"),
    ],
)
def test_which_layers(where, adapted):
    model = Model()
    new = lora(model, 1, where=where, key=KEY)
    names = ("embedding", "hidden", "head")
    found = [name for name in names if isinstance(getattr(new, name), LoRA)]
    assert found == adapted.split()
    # At first it computes what it did; learnt and merged, what the adapters do.
    for word in range(7):
        np.testing.assert_array_equal(new(jnp.array(word)), model(jnp.array(word)))
    new = moved(new)
    plain = merge(new)
    assert jax.tree.structure(plain) == jax.tree.structure(model)
    for word in range(7):
        np.testing.assert_allclose(
            plain(jnp.array(word)), new(jnp.array(word)), rtol=1e-5, atol=1e-5
        )


def test_by_a_function_of_the_path():
    new = lora(Model(), 2, by=lambda path, layer: path == ".hidden", key=KEY)
    assert isinstance(new.hidden, LoRA)
    assert isinstance(new.head, eqx.nn.Linear)


def test_layers_that_are_stacked():
    keys = jr.split(KEY, 3)
    stacked = eqx.filter_vmap(lambda key: eqx.nn.Linear(4, 4, key=key))(keys)
    adapted = moved(lora(stacked, 2, key=KEY))
    assert adapted.a.shape == (3, 2, 4)
    x = jnp.asarray(RNG.normal(size=4), jnp.float32)
    got = eqx.filter_vmap(lambda layer: layer(x))(adapted)
    merged = eqx.filter_vmap(lambda layer: layer(x))(merge(adapted))
    np.testing.assert_allclose(got, merged, rtol=1e-5, atol=1e-6)
    changed = merge(adapted).weight - stacked.weight
    np.testing.assert_allclose(changed[1], adapted.b[1] @ adapted.a[1], atol=1e-6)


def test_dtypes():
    half = eqx.nn.Linear(64, 32, dtype=jnp.bfloat16, key=KEY)
    adapted = moved(lora(half, 4, key=KEY))
    assert {adapted.a.dtype, adapted.b.dtype} == {jnp.dtype("float32")}
    x = jnp.asarray(RNG.normal(size=64), jnp.bfloat16)
    y = adapted(x)
    assert y.dtype == jnp.bfloat16
    assert merge(adapted).weight.dtype == jnp.bfloat16
    low = adapted.b @ (adapted.a @ np.asarray(x, np.float32))
    np.testing.assert_allclose(
        np.asarray(y, np.float32), np.asarray(half(x), np.float32) + low, rtol=1e-2
    )


def test_how_a_is_drawn():
    layer = lora(eqx.nn.Linear(400, 300, key=KEY), 200, key=KEY)
    assert abs(layer.a.std() * 20 - 1) < 0.01
    np.testing.assert_array_equal(layer.b, 0)
    again = lora(eqx.nn.Linear(400, 300, key=KEY), 200, key=jr.key(1))
    assert np.abs(layer.a - again.a).max() > 0


def test_repr():
    text = repr(lora(Model(), 2, where=lambda m: m.hidden, alpha=4, key=KEY))
    assert "LoRA(Linear(4, 5), rank=2, alpha=4, 18 parameters beside 25)" in text


LENGTHS = (2, 5, 3)
BATCHING = eqf.data.Epochs(2, batch_size=2)


def dataset():
    clients = {
        str(i): {"x": RNG.integers(0, 7, n), "y": RNG.normal(size=n)}
        for i, n in enumerate(LENGTHS)
    }
    return eqf.data.FederatedDataset.from_mapping(clients)


DATA = dataset()


def loader():
    return eqf.data.Loader(DATA, eqf.data.AllClients(), BATCHING)


def loss(model, example, key):
    return (model(example["x"]) - example["y"].astype(jnp.float32)) ** 2


ADAPTED = lora(Model(), 1, where=lambda m: (m.embedding, m.hidden), key=KEY)


def rounds(algorithm, model, roles, number=2, executor=None) -> Any:
    state = algorithm.init(model, num_clients=3, roles=roles, key=KEY)
    metrics = {}
    executor = eqf.Executor() if executor is None else executor
    for i in range(number):
        state, metrics = algorithm.round(state, loader()(i), key=KEY, executor=executor)
    return state, metrics


def test_adapters_alone_are_the_same_training():
    """A model whose base is frozen, and one that is nothing but its adapters."""
    roles = eqf.roles(ADAPTED, shared=adapters)
    whole, _ = rounds(eqf.FedAvg(loss, SGD, BATCHING), ADAPTED, roles)

    def of_adapters(pairs, example, key):
        model = eqx.tree_at(adapters, ADAPTED, pairs)
        return loss(model, example, key)

    algorithm = eqf.FedAvg(of_adapters, SGD, BATCHING)
    alone, _ = rounds(algorithm, adapters(ADAPTED), None)
    for x, y in zip(adapters(whole.model), alone.model, strict=True):
        np.testing.assert_array_equal(x, y)
    before = eqx.filter(ADAPTED, eqx.is_array)
    frozen = eqx.tree_at(adapters, whole.model, adapters(ADAPTED))
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(frozen), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 5), (5, 4)])
def test_a_full_rank_is_the_layer(inputs, outputs):
    """A round of one step of SGD moves the weight as it does without adapters, if the
    matrix of the two that is square is a rotation, the other is 0 and the scale is 1.

    Of the gradient G of the weight the change has G A^T A then, or B B^T G. What is a
    rotation has no gradient, so that the product of the means is the mean of products.
    It is so for one step: in the next one both have moved.
    """
    layer = eqx.nn.Linear(inputs, outputs, key=KEY)
    rotation, _ = np.linalg.qr(RNG.normal(size=(4, 4)))
    rotation = jnp.asarray(rotation, jnp.float32)
    adapted = lora(layer, 4, key=KEY)
    zero = jnp.zeros_like(adapted.a if inputs > outputs else adapted.b)
    pair = (zero, rotation) if inputs > outputs else (rotation, zero)
    adapted = eqx.tree_at(lambda x: (x.a, x.b), adapted, pair)
    clients = {
        str(i): {"x": RNG.normal(size=(n, inputs)), "y": RNG.normal(size=(n, outputs))}
        for i, n in enumerate(LENGTHS)
    }
    data = eqf.data.FederatedDataset.from_mapping(clients)
    batching = eqf.data.Epochs(1, batch_size=max(LENGTHS))
    batches = eqf.data.Loader(data, eqf.data.AllClients(), batching)

    def squares(model, example, key):
        x, y = (example[name].astype(jnp.float32) for name in "xy")
        return jnp.sum((model(x) - y) ** 2)

    def weights(model, where):
        algorithm = eqf.FedAvg(squares, SGD, batching)
        roles = eqf.roles(model, shared=where)
        state = algorithm.init(model, num_clients=len(LENGTHS), roles=roles)
        for i in range(2):
            state, _ = algorithm.round(state, batches(i), key=KEY)
            yield merge(state.model).weight if model is adapted else state.model.weight

    first, second = zip(
        weights(adapted, adapters), weights(layer, lambda m: m.weight), strict=True
    )
    assert np.abs(first[1] - layer.weight).max() > 1e-2
    np.testing.assert_allclose(*first, rtol=1e-5, atol=1e-5)
    assert np.abs(second[0] - second[1]).max() > 1e-3


# What travels: all; A and B; B; A.
SENT = {
    "full": (eqf.FedAvg, {}),
    "FedIT": (eqf.FedAvg, {"shared": adapters}),
    "FFA-LoRA": (eqf.FedAvg, {"shared": lora_b}),
    "FedSA-LoRA": (eqf.FedPer, {"shared": lora_a, "personal": lora_b}),
}


def test_bits_of_a_round():
    sizes = {"full": 28 + 25 + 6, "FedIT": 11 + 9, "FFA-LoRA": 4 + 5, "FedSA-LoRA": 11}
    for name, (make, kinds) in SENT.items():
        model = Model() if name == "full" else ADAPTED
        algorithm = make(loss, SGD, BATCHING)
        _, metrics = rounds(algorithm, model, eqf.roles(model, **kinds), 1)
        assert int(metrics["bits_up"]) == 32 * (sizes[name] + 1) * 3
        assert int(metrics["bits_down"]) == 32 * sizes[name] * 3


def pruning(loss, optim, batching):
    return eqf.HetLoRA(loss, optim, batching, lam=1.0, gamma=0.5)


pruning.__name__ = "HetLoRA"
METHODS = [eqf.FedExLoRA, eqf.FLoRA, eqf.FlexLoRA, pruning, eqf.RoLoRA]


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ({"shared": lora_b}, "`{}` needs both A and B"),
        ({"shared": adapters, "personal": lambda m: m.head}, "`{}` cannot keep"),
    ],
)
def test_wrong_roles(make, roles, words):
    algorithm = make(loss, SGD, BATCHING)
    with pytest.raises(ValueError, match=re.escape(words.format(make.__name__))):
        rounds(algorithm, ADAPTED, eqf.roles(ADAPTED, **roles), 1)


@pytest.mark.parametrize("make", METHODS)
def test_a_model_without_adapters(make):
    algorithm = make(loss, SGD, BATCHING)
    words = f"`{make.__name__}` needs layers with a change of low rank"
    with pytest.raises(ValueError, match=words):
        rounds(algorithm, Model(), None, 1)


@pytest.mark.parametrize("make", [eqf.FedExLoRA, eqf.FLoRA])
def test_weights_that_are_trained_cannot_be_moved(make):
    algorithm = make(loss, SGD, BATCHING)
    with pytest.raises(ValueError, match="moves the weights under the adapters"):
        rounds(algorithm, ADAPTED, None, 1)


def test_adapters_of_another_base(tmp_path):
    """A checkpoint is gone on from with the base that it was made with alone: one that
    differs in the last bit of a number is another, whatever may have changed."""
    algorithm = eqf.FedAvg(loss, SGD, BATCHING)
    roles = eqf.roles(ADAPTED, shared=adapters)
    kwargs: Any = {"key": KEY, "roles": roles}
    saves = eqf.Checkpointer(tmp_path)
    eqf.train(algorithm, ADAPTED, loader(), num_rounds=1, checkpointer=saves, **kwargs)

    def nudged(x):
        return x.at[0, 1].set(jnp.nextafter(x[0, 1], jnp.inf))

    other = eqx.tree_at(lambda m: m.hidden.base.weight, ADAPTED, replace_fn=nudged)
    for on_change in ("error", "warn"):
        saves = eqf.Checkpointer(tmp_path, on_change=on_change)
        with pytest.raises(ValueError, match="is of another base") as caught:
            eqf.train(
                algorithm, other, loader(), num_rounds=2, checkpointer=saves, **kwargs
            )
        (made_with,) = tmp_path.glob("*/fingerprint.json")
        first = json.loads(made_with.read_text())["model, frozen"]
        words = rf"begins with {first}, and that of this model with [0-9a-f]{{12}}\."
        assert re.search(words, str(caught.value))
        assert first not in str(caught.value).split("that of this model")[1]
    # Of what is trained nothing is asked but what it began as.
    eqf.train(algorithm, ADAPTED, loader(), num_rounds=2, checkpointer=saves, **kwargs)


def test_a_checkpoint_holds_what_is_trained(tmp_path):
    algorithm = eqf.FedAvg(loss, optax.sgd(0.1, momentum=0.9), BATCHING)
    roles = eqf.roles(ADAPTED, shared=adapters)
    kwargs: Any = {"key": KEY, "roles": roles}
    whole = eqf.train(algorithm, ADAPTED, loader(), num_rounds=2, **kwargs)
    saves = eqf.Checkpointer(tmp_path)
    kwargs |= {"checkpointer": saves}
    eqf.train(algorithm, ADAPTED, loader(), num_rounds=1, **kwargs)
    (about,) = (json.loads(x.read_text()) for x in tmp_path.glob("*/leaves.json"))
    frozen = [f".rest{path}" for path in roles.of("frozen")]
    assert about["base"]["paths"] == frozen
    assert not {path for path, *_ in about["leaves"]} & set(frozen)
    assert {path for path, *_ in about["leaves"]} >= {
        f".params{path}" for path in roles.of("shared")
    }
    resumed = eqf.train(algorithm, ADAPTED, loader(), num_rounds=2, **kwargs)
    assert eqx.tree_equal(resumed.model, whole.model)
    # Whoever restores it by hand, and says nothing of roles, is asked for the base too.
    state = algorithm.init(ADAPTED, num_clients=3, key=KEY, roles=roles)
    restored = saves.restore(state)
    assert restored is not None
    assert eqx.tree_equal(restored[1].model, whole.model)
    other = eqx.tree_at(
        lambda s: s.rest.hidden.base.bias, state, replace_fn=lambda x: -x
    )
    with pytest.raises(ValueError, match="is of another base: the hash of what is"):
        saves.restore(other)
    plain = algorithm.init(ADAPTED, num_clients=3, key=KEY)
    with pytest.raises(ValueError, match="is of another algorithm, model or roles"):
        saves.restore(plain)


def test_a_hash_of_all_that_is_frozen():
    """Wherever it lies; of a training without roles there is none."""

    def made(model, roles):
        batches = (eqf.FedAvg(loss, SGD, BATCHING), model, loader())
        return eqf.Checkpointer.fingerprint(*batches, key=KEY, roles=roles)

    model = lora(eqx.nn.Linear(4, 6, key=KEY), 2, key=KEY)
    roles = eqf.roles(model, shared=adapters)
    plain, one = made(model, None), made(model, roles)
    assert set(one) - set(plain) == {"model, frozen"}
    assert set(plain) - set(one) == {"model.base.weight", "model.base.bias"}
    mesh = jax.make_mesh((2,), ("model",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("model"))
    split = jax.device_put(model.base.weight, place)
    assert made(eqx.tree_at(lambda m: m.base.weight, model, split), roles) == one
    # NumPy has no numbers of fewer bits of its own.
    half = eqx.tree_at(
        lambda m: m.base.weight, model, replace_fn=lambda x: x.astype(jnp.bfloat16)
    )
    digits = made(half, eqf.roles(half, shared=adapters))["model, frozen"]
    assert digits != one["model, frozen"]


def test_a_llama_whose_output_is_its_embedding():
    config = eqf.models.LlamaConfig(
        vocab_size=7,
        dim=4,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        mlp_size=6,
        max_length=8,
        tied=True,
    )
    llama = drawn(lambda key: eqf.models.Llama(config, key=key), 0, 0.5)
    tokens = jnp.array([3, 1, 6])
    adapted = moved(lora(llama, 1, where=lambda m: m, key=KEY))
    assert len(lora_a(adapted)) == 8  # seven of a layer, and the embedding

    @eqx.filter_jit
    def outputs(*models):
        return [model(tokens) for model in models]

    plain, got, expected = outputs(llama, adapted, merge(adapted))
    assert np.abs(expected - plain).max() > 1e-3
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
