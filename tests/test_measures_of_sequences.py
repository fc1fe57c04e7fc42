"""Metrics of sequences say what NumPy says, and NaN where there is nothing to say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import equifed as eqf


NAN = np.nan
LENGTH, VOCABULARY = 5, 7
PAD, EOS, OOV = 0, 2, (5, 6)
RNG = np.random.default_rng(0)
# Padding at the end; the third is empty, the fourth was cut, the last is unknown words.
TARGETS = np.array(
    [[3, 4, 2, 0, 0], [5, 3, 6, 5, 2], [0] * 5, [3, 3, 4, 3, 6], [6, 5, 0, 0, 0]]
)
LOGITS = RNG.normal(size=(5, LENGTH, VOCABULARY)).astype(np.float32)
LOGITS[4, 2] = NAN  # where a target is masked


def of_tokens(logits, targets):
    blocked = (PAD, 1, EOS, *OOV)
    each = functools.partial(eqf.token_accuracy, logits, targets)
    return {
        "token_loss": eqf.token_cross_entropy(logits, targets),
        "sequence_loss": eqf.sequence_cross_entropy(logits, targets),
        "accuracy": each(),
        "no_eos": each(masked=(PAD, EOS)),
        "in_vocab": each(masked=(PAD, EOS), blocked=blocked),
        "top_2": eqf.token_top_k_accuracy(logits, targets, k=2),
        "top_7": eqf.token_top_k_accuracy(logits, targets, k=7, blocked=(3,)),
        "tokens": eqf.token_count(targets),
        "sequences": eqf.sequence_count(targets),
        "length": eqf.sequence_length(targets),
        "truncated": eqf.truncation_rate(targets, eos=EOS),
        "oov": eqf.oov_rate(targets, oov=OOV),
        "loss_at": eqf.token_cross_entropy(logits, targets, per_position=True),
        "right_at": each(per_position=True),
        "oov_at": eqf.oov_rate(targets, oov=OOV, per_position=True),
    }


def reference(logits, targets):
    """The same over all sequences."""
    real = targets != PAD
    there = real.any(1)
    shifted = logits - logits.max(-1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
    losses = -np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0])
    losses = np.where(real, losses, 0)
    right = logits.argmax(-1) == targets
    order = np.argsort(-logits, axis=-1)
    known = real & (targets != EOS)
    blocked = logits.copy()
    blocked[..., [0, 1, 2, 5, 6]] = -np.inf
    outside = (targets == 5) | (targets == 6)
    with np.errstate(invalid="ignore"):
        return {
            "token_loss": losses.sum() / real.sum(),
            "sequence_loss": losses.sum() / there.sum(),
            "accuracy": right[real].mean(),
            "no_eos": right[known].mean(),
            "in_vocab": (blocked.argmax(-1) == targets)[known].mean(),
            "top_2": (order[..., :2] == targets[..., None]).any(-1)[real].mean(),
            "top_7": (targets != 3)[real].mean(),
            "tokens": real.sum(),
            "sequences": there.sum(),
            "length": real.sum() / there.sum(),
            "truncated": (~(targets == EOS).any(1))[there].mean(),
            "oov": outside[real].mean(),
            "loss_at": losses.sum(0) / real.sum(0),
            "right_at": (right & real).sum(0) / real.sum(0),
            "oov_at": (outside & real).sum(0) / real.sum(0),
        }


def test_sequences():
    sizes = {"anna": [0, 2], "ben": [], "carl": [1, 3, 4], "dora": [2]}
    clients = eqf.data.FederatedDataset.from_mapping(
        {name: {"y": TARGETS[i], "x": LOGITS[i]} for name, i in sizes.items()}
    )

    def metrics(model, example, key):
        return of_tokens(example["x"], example["y"])

    evaluator = eqf.Evaluator(clients, metrics, batch_size=2)
    found, each = evaluator(None), evaluator.per_client(None)
    for name, value in reference(LOGITS, TARGETS).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    for client, i in sizes.items():
        # Of an empty sequence there is nothing, and of no sequence neither.
        own = reference(LOGITS[i], TARGETS[i]) if client in ("anna", "carl") else {}
        for name, value in each[client].items():
            counts = name in ("tokens", "sequences") and client == "dora"
            expected = own.get(name, 0.0 if counts else NAN)
            expected = np.broadcast_to(expected, np.shape(value))
            np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=name)


def test_several_ids_are_out_of_the_vocabulary():
    # Three of five: any of them counts, where a product of two equalities is always 0.
    targets = jnp.array([5, 3, 6, 4, 5, 0])
    np.testing.assert_allclose(eqf.oov_rate(targets, oov=(5, 6)).compute(), 0.6)


def test_what_is_masked_is_as_if_absent():
    targets = jnp.array([-100, 2**31 - 1, 1, 2])

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def value(logits):
        masked = (-100, 2**31 - 1)
        tokens = eqf.token_cross_entropy(logits, targets, masked=masked)
        right = eqf.token_accuracy(logits, targets, masked=masked)
        return tokens.compute(), (tokens, right)

    logits = np.array([[NAN, 1.0, 2.0], [0.0, np.inf, 0.0], [0.0] * 3, [0.0] * 3])
    (loss, (tokens, right)), gradient = value(logits.astype(np.float32))
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-6)
    assert tokens.weight == 2
    assert right.compute() == 0
    np.testing.assert_allclose(gradient[:2], 0.0)
    assert np.isfinite(gradient).all()


def test_a_token_without_a_logit_is_nan():
    logits = jnp.zeros((2, 3), jnp.bfloat16)

    @jax.jit
    @jax.vmap
    def each(targets):
        tokens = eqf.token_cross_entropy(logits, targets)
        at = eqf.token_accuracy(logits, targets, per_position=True)
        return tokens, at, eqf.token_top_k_accuracy(logits, targets, k=2)

    loss, at, top = each(jnp.array([[1, 3], [1, -1], [1, 2], [0, 0]]))
    assert loss.total.dtype == jnp.float32
    np.testing.assert_array_equal(np.isnan(loss.total), [True, True, False, False])
    np.testing.assert_array_equal(np.isnan(top.total), [True, True, False, False])
    np.testing.assert_array_equal(np.isnan(at.total)[:, 1], [True, True, False, False])
    np.testing.assert_array_equal(loss.weight, [2, 2, 2, 0])
    # Labels of 64 bits are not cut: 2**32 + 1 is 1 in 32 bits.
    wide = eqf.token_cross_entropy(logits, np.array([1, 2**32 + 1]))
    assert np.isnan(wide.compute())
