"""The workloads' models as Equinox modules: what equifed and the bare loop train.

A model is of one example, as always in equifed.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _protocol import Work

import equifed as eqf


class CNN(eqx.Module):
    conv1: eqf.nn.Conv2d
    conv2: eqf.nn.Conv2d
    pool: eqf.nn.MaxPool2d
    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear

    def __init__(self, shapes, key):
        self.conv1 = eqf.nn.Conv2d(*shapes["conv1/weight"][2:], 3, key=key)
        self.conv2 = eqf.nn.Conv2d(*shapes["conv2/weight"][2:], 3, key=key)
        self.pool = eqf.nn.MaxPool2d(2)
        self.dense1, self.dense2 = _linears(shapes, key)

    def __call__(self, x):
        x = x.astype(jnp.float32) / 255
        x = jax.nn.relu(self.conv1(x))
        x = self.pool(jax.nn.relu(self.conv2(x)))
        return self.dense2(jax.nn.relu(self.dense1(x.reshape(-1))))


class Dense(eqx.Module):
    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear
    dense3: eqx.nn.Linear

    def __init__(self, shapes, key):
        self.dense1, self.dense2, self.dense3 = _linears(shapes, key)

    def __call__(self, x):
        x = x.reshape(-1).astype(jnp.float32) / 255
        x = jax.nn.relu(self.dense1(x))
        return self.dense3(jax.nn.relu(self.dense2(x)))


class Logistic(eqx.Module):
    dense1: eqx.nn.Linear

    def __init__(self, shapes, key):
        (self.dense1,) = _linears(shapes, key)

    def __call__(self, x):
        return self.dense1(x.reshape(-1).astype(jnp.float32) / 255)


class LSTM(eqx.Module):
    embed: eqx.nn.Embedding
    lstm: eqf.nn.LSTM
    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear

    def __init__(self, shapes, key):
        self.embed = eqx.nn.Embedding(*shapes["embed/weight"], key=key)
        embedding, hidden = shapes["embed/weight"][1], shapes["lstm/bias"][0] // 4
        self.lstm = eqf.nn.LSTM(embedding, hidden, key=key)
        self.dense1, self.dense2 = _linears(shapes, key)

    def __call__(self, x):
        x, _ = self.lstm(self.embed.weight[x])
        return jax.vmap(lambda x: self.dense2(self.dense1(x)))(x)


MODELS = {"cnn": CNN, "dense": Dense, "logistic": Logistic, "lstm": LSTM}


def make_model(work: Work) -> eqx.Module:
    """The workload's model with its first parameters."""
    # By shape alone: the first numbers come from the workload.
    make = MODELS[work.model]
    model = eqx.filter_eval_shape(make, work.shapes(), jr.key(0))
    leaves = {}
    for name, value in work.params().items():
        layer, kind = name.split("/")
        if layer == "lstm":
            leaves.update(_lstm_leaves(kind, value, work))
        else:
            leaves[layer, kind] = _turned(model, layer, value)
    return eqx.tree_at(
        lambda model: [getattr(getattr(model, a), b) for a, b in leaves],
        model,
        [jnp.asarray(value) for value in leaves.values()],
    )


def params_of(work: Work, model: eqx.Module) -> dict[str, np.ndarray]:
    """The model's parameters by the workload's names and in its layouts."""
    params = {}
    for name in work.shapes():
        layer, kind = name.split("/")
        if layer == "lstm":
            params[name] = _lstm_param(kind, model.lstm)
        else:
            value = np.array(getattr(getattr(model, layer), kind))
            params[name] = _turned(model, layer, value)
    return params


def metrics_of(work: Work):
    """The loss of one example and its accuracy, for evaluation."""

    def image_loss(model, example, key):
        logits = model(example["x"])
        accuracy = eqf.accuracy(logits, example["y"])
        return eqf.cross_entropy(logits, example["y"]), {"accuracy": accuracy}

    def sentence_loss(model, example, key):
        logits, words = model(example["x"]), example["y"]
        there = (words != 0).astype(jnp.float32)
        losses = jax.vmap(eqf.cross_entropy)(logits, words)
        right = (logits.argmax(axis=1) == words).astype(jnp.float32)
        num_words = there.sum()
        accuracy = (right * there).sum() / num_words
        return (losses * there).sum() / num_words, {"accuracy": accuracy}

    return sentence_loss if work.model == "lstm" else image_loss


def loss_of(work: Work):
    """The loss of one example alone: what the other sides compute in training."""
    metrics = metrics_of(work)
    return lambda model, example, key: metrics(model, example, key)[0]


def _turned(model, layer: str, value: np.ndarray) -> np.ndarray:
    """From the workload's layout to the model's, or back."""
    is_linear = isinstance(getattr(model, layer), eqx.nn.Linear)
    return value.T if is_linear and value.ndim == 2 else value


def _lstm_leaves(kind: str, value: np.ndarray, work: Work) -> dict:
    value = _swapped(value)
    if kind == "bias":
        return {("lstm", "bias"): value + _forget(value)}
    return {
        ("lstm", "weight_ih"): value[: work.embedding].T,
        ("lstm", "weight_hh"): value[work.embedding :].T,
    }


def _lstm_param(kind: str, lstm: eqf.nn.LSTM) -> np.ndarray:
    if kind == "bias":
        value = np.array(lstm.bias)
        return _swapped(value - _forget(value))
    both = np.concatenate([lstm.weight_ih, lstm.weight_hh], axis=1)
    return _swapped(both.T)


def _swapped(value: np.ndarray) -> np.ndarray:
    """The gates i, g, f, o of the workload as Equinox's i, f, g, o, or back."""
    i, g, f, o = np.split(value, 4, axis=-1)
    return np.concatenate([i, f, g, o], axis=-1)


def _forget(bias: np.ndarray) -> np.ndarray:
    """What the workload adds to the forget gate, and Equinox does not: 1."""
    return np.repeat(np.array([0, 1, 0, 0], np.float32), len(bias) // 4)


def _linears(shapes, key) -> list[eqx.nn.Linear]:
    return [
        eqx.nn.Linear(*shape, key=key)
        for name, shape in shapes.items()
        if name.startswith("dense") and name.endswith("weight")
    ]
