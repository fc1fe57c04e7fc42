"""The tasks of texts: losses and metrics are those of their sources, in NumPy."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from equifed import recipes


PAD, BOS, EOS = 0, 1, 2
SIZES = {"shakespeare": (80, 90), "stackoverflow": (20, 10_004)}
NAMES = (
    "shakespeare-character",
    "shakespeare-lstm",
    "stackoverflow-word",
    "stackoverflow-lstm",
    "stackoverflow-transformer",
)


def foretold(name):
    """Logits, and targets of which most are foretold: among them are unknown ones and
    the end, each once right and once wrong, and padding."""
    length, size = SIZES[name.partition("-")[0]]
    oov, rng = size - 1, np.random.default_rng(0)
    y = rng.integers(3, oov, length)
    y[[2, 5]], y[[7, 9]], y[-4:] = oov, EOS, PAD
    guesses = y.copy()
    # A wrong word; an unknown one where there is a word; a word for the end.
    guesses[[0, 1, 5, 9]] = [(y[0] - 2) % oov, oov, 4, 5]
    guesses[-1] = 6
    logits = rng.normal(size=(length, size))
    # Without the special ones, the second best is right where a word was masked.
    logits[np.arange(length), y] += 8
    logits[np.arange(length), guesses] += 16
    return logits.astype(np.float32), y.astype(np.int32), oov


def measured(name):
    logits, y, oov = foretold(name)
    task: Any = recipes.task(name)

    def of(logits, y):
        def model(x, *, key):
            return logits

        example = {"x": y, "y": y}
        loss, _ = task.loss(model, example, jr.key(0))
        found = dict(task.metrics(model, example, jr.key(0)))
        return loss, {
            n: getattr(x, "compute", lambda x=x: x)() for n, x in found.items()
        }

    loss, metrics = jax.jit(of)(jnp.asarray(logits), jnp.asarray(y))
    return logits.astype(np.float64), y, oov, float(loss), metrics


def share(logits, y, masked, blocked=()):
    logits = logits.copy()
    logits[:, list(blocked)] = -np.inf
    return (logits.argmax(-1) == y)[~np.isin(y, masked)].mean()


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_metrics_are_those_of_the_sources(name):
    logits, y, oov, loss, got = measured(name)
    log_norm = np.log(np.exp(logits).sum(-1))
    tokens = (log_norm - logits[np.arange(len(y)), y])[y != PAD]
    # FedJAX's task of words takes a constant for the length.
    over = 13.3 if name == "stackoverflow-word" else len(y)
    assert loss == pytest.approx(tokens.sum() / over, rel=1e-5)
    special = (PAD, BOS, EOS, oov)
    wanted = {"loss": tokens.mean(), "perplexity": np.exp(tokens.mean())}
    if name.endswith("-lstm"):  # of Reddi et al.
        wanted["accuracy"] = share(logits, y, [PAD])
        if name == "stackoverflow-lstm":
            wanted["accuracy_with_oov"] = wanted["accuracy"]
            wanted["accuracy_no_oov"] = share(logits, y, [PAD, oov])
            wanted["accuracy"] = share(logits, y, [PAD, oov, EOS])
    else:
        wanted["accuracy"] = share(logits, y, [PAD, EOS, oov], special)
        wanted["accuracy_no_eos"] = share(logits, y, [PAD, EOS])
    if name in ("shakespeare-character", "stackoverflow-word"):  # of FedJAX
        wanted |= {
            "accuracy_in_vocab": share(logits, y, [PAD, EOS], special),
            "num_tokens": len(tokens),
            "sequence_length": len(tokens),
            "sequence_loss": tokens.sum(),
            "token_loss": tokens.mean(),
            "token_oov_rate": 2 / len(tokens),
        }
        assert wanted["accuracy_in_vocab"] < wanted["accuracy"]
    if name == "stackoverflow-word":
        wanted["truncation_rate"] = 0
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        assert float(got[key]) == pytest.approx(value, rel=1e-5), key


def test_models_of_reddi_have_no_other_tanh():
    """utils/models/shakespeare_models.py and stackoverflow_models.py of
    google-research/federated put one LSTM behind the other; FedJAX's do not."""
    for text in ("shakespeare", "stackoverflow"):
        for source, has in (("reddi", False), ("fedjax", True)):
            name = f"fedjax-{text}" + "-word" * (text == "stackoverflow")
            name = f"reddi-{text}-fedavg" if source == "reddi" else name
            task = recipes.recipe(name).task
            assert eqx.filter_eval_shape(task.model, jr.key(0)).extra_tanh is has


def test_a_folder_is_asked_for_by_the_task_that_needs_it():
    for name in NAMES:
        with pytest.raises(ValueError, match=f"`folder` is needed for '{name}'"):
            recipes.task(name).load()


SAID = {
    "cifar100": ("Pachinko", "7 x 7", "max pooling", "in front of", "1e-4"),
    "emnist": ("LEAF's writers", "a tenth"),
    "autoencoder": ("LEAF's writers", "a tenth"),
    "shakespeare": ("by their tokens", "into 81"),
    "stackoverflow": ("by their tokens", "first 1,000"),
}


@pytest.mark.parametrize("task", SAID)
def test_in_what_a_recipe_of_reddi_differs_is_said(task):
    for algorithm in ("fedavg", "fedyogi"):
        notes = recipes.recipe(f"reddi-{task}-{algorithm}").notes
        for words in SAID[task]:
            assert words in notes
