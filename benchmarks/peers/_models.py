"""The workloads' models, of `equifed.models`: what equifed and the bare loop train.

A model is of one example, as always in equifed.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _protocol import Work

import equifed as eqf
from equifed import models


def _build(work: Work) -> Any:
    shape, classes, key = work.input_shape, work.num_classes, jr.key(0)
    if work.model == "lstm":
        sizes = {"embed_size": work.embedding, "hidden_size": work.hidden}
        return models.LanguageLSTM(
            classes, **sizes, project=True, extra_tanh=False, key=key
        )
    if work.model == "cnn":
        return models.ConvNet(shape, classes, dropout=(0.0, 0.0), key=key)
    if work.model == "dense":
        return models.MLP(shape, classes, key=key)
    return models.LogisticRegression(shape, classes, key=key)


def _arrays(work: Work, model: Any) -> dict[str, Any]:
    """The model's arrays, by the workload's names of its layers."""
    if work.model == "lstm":
        layers = {"dense1": model.projection, "dense2": model.output}
    elif work.model == "cnn":
        names = ("conv1", "conv2", "dense1", "dense2")
        layers = {name: getattr(model, name) for name in names}
    elif work.model == "dense":
        layers = {f"dense{i}": layer for i, layer in enumerate(model.layers, 1)}
    else:
        layers = {"dense1": model.dense}
    arrays = {
        f"{name}/{kind}": getattr(layer, kind)
        for name, layer in layers.items()
        for kind in ("weight", "bias")
    }
    if work.model == "lstm":
        (lstm,) = model.lstms
        arrays["embed/weight"] = model.embedding
        for kind in ("weight_ih", "weight_hh", "bias"):
            arrays[f"lstm/{kind}"] = getattr(lstm, kind)
    return arrays


def make_model(work: Work) -> Any:
    """The workload's model with its first parameters."""
    # By shape alone: the first numbers come from the workload.
    model = eqx.filter_eval_shape(lambda: _build(work))
    values = {}
    for name, value in work.params().items():
        if name.startswith("lstm"):
            values.update(_lstm_arrays(name, value, work))
        else:
            values[name] = _turned(name, value)
    return eqx.tree_at(
        lambda model: list(_arrays(work, model).values()),
        model,
        [jnp.asarray(values[name]) for name in _arrays(work, model)],
    )


def params_of(work: Work, model: Any) -> dict[str, np.ndarray]:
    """The model's parameters by the workload's names and in its layouts."""
    arrays = {name: np.array(x) for name, x in _arrays(work, model).items()}
    return {
        name: _lstm_param(name, arrays)
        if name.startswith("lstm")
        else _turned(name, arrays[name])
        for name in work.shapes()
    }


def metrics_of(work: Work):
    """The loss of one example and its accuracy, for evaluation."""

    def image_loss(model, example, key):
        logits = model(example["x"].astype(jnp.float32) / 255)
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


def _turned(name: str, value: np.ndarray) -> np.ndarray:
    """From the workload's layout to the model's, or back."""
    return value.T if name.startswith("dense") and value.ndim == 2 else value


def _lstm_arrays(name: str, value: np.ndarray, work: Work) -> dict[str, np.ndarray]:
    value = _swapped(value)
    if name == "lstm/bias":
        return {name: value + _forget(value)}
    return {
        "lstm/weight_ih": value[: work.embedding].T,
        "lstm/weight_hh": value[work.embedding :].T,
    }


def _lstm_param(name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    if name == "lstm/bias":
        return _swapped(arrays[name] - _forget(arrays[name]))
    both = [arrays["lstm/weight_ih"], arrays["lstm/weight_hh"]]
    return _swapped(np.concatenate(both, axis=1).T)


def _swapped(value: np.ndarray) -> np.ndarray:
    """The gates i, g, f, o of the workload as Equinox's i, f, g, o, or back."""
    i, g, f, o = np.split(value, 4, axis=-1)
    return np.concatenate([i, f, g, o], axis=-1)


def _forget(bias: np.ndarray) -> np.ndarray:
    """What the workload adds to the forget gate, and Equinox does not: 1."""
    return np.repeat(np.array([0, 1, 0, 0], np.float32), len(bias) // 4)
