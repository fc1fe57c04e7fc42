"""Metrics of sequences, domains and classes say what NumPy says, NaN where there is
nothing to say, and the same over any grouping.
"""

import functools

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest

import equifed as eqf
from equifed._metrics import masked_sum


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


class Highest(eqf.AbstractMetric):
    """How many there are of each of two, as integers."""

    counts: jax.Array

    def compute(self):
        return self.counts / self.counts.sum()


def test_domains():
    @jax.jit
    def total(values, domains):
        def one(x, domain):
            metrics = {
                "mean": eqf.Average(x),
                "at": eqf.Average(jnp.stack([x, 2 * x])),
                "share": Highest(jnp.stack([x > 1, x <= 1]).astype(jnp.int32)),
            }
            return {
                name: eqf.PerDomain(metric, domain, num_domains=3)
                for name, metric in metrics.items()
            }

        summed = masked_sum(jax.vmap(one)(values, domains), jnp.ones(4, bool))
        return {name: metric.compute() for name, metric in summed.items()}

    values = jnp.array([1.0, 2.0, 4.0, 0.0])
    got = total(values, jnp.array([0, 2, 0, 2]))
    np.testing.assert_allclose(got["mean"], [2.5, NAN, 1.0])
    np.testing.assert_allclose(got["at"], [[2.5, 5], [NAN, NAN], [1, 2]])
    np.testing.assert_allclose(got["share"], [[0.5, 0.5], [NAN, NAN], [0.5, 0.5]])
    for bad in (3, -1, 2**31 - 1):
        for value in total(values, jnp.array([0, 1, 2, bad])).values():
            assert np.isnan(value).all()
    # A NaN of one domain is not one of another.
    got = total(values.at[1].set(NAN), jnp.array([0, 2, 0, 2]))
    np.testing.assert_allclose(got["mean"], [2.5, NAN, NAN])


def of_classes(logits, label):
    return {
        f"{kind.__name__} {average}": kind(logits, label, average=average)
        for kind in (eqf.Precision, eqf.Recall, eqf.F1)
        for average in ("macro", "micro", None)
    }


def test_precision_recall_and_f1():
    logits, labels = RNG.normal(size=(40, 5)), RNG.integers(0, 4, 40)
    logits[:, 3] = -10  # never guessed; of class 4 there is no example
    logits[:20, 4] = -10
    # A third run has no more than one class; a fourth a label without a logit.
    masks = np.ones((4, 40), bool)
    masks[2] = (labels == 0) & (logits.argmax(1) == 0)
    labels = np.stack([labels, labels, labels, np.where(np.arange(40) == 7, 5, labels)])
    masks[1] = np.arange(40) < 20

    @jax.jit
    @jax.vmap
    def total(labels, mask):
        summed = masked_sum(jax.vmap(of_classes)(logits, labels), mask)
        return {name: metric.compute() for name, metric in summed.items()}

    found = total(labels, masks)
    for run in range(3):
        guess, label = logits.argmax(1)[masks[run]], labels[run][masks[run]]
        classes = np.arange(5)[:, None]
        hits = ((guess == classes) & (label == classes)).sum(1)
        guesses, there = (guess == classes).sum(1), (label == classes).sum(1)
        ratios = {
            "Precision": (hits, guesses),
            "Recall": (hits, there),
            "F1": (2 * hits, guesses + there),
        }
        for name, (part, whole) in ratios.items():
            with np.errstate(invalid="ignore"):
                each = part / whole
            expected = {
                None: each,
                "macro": np.nanmean(each),
                "micro": part.sum() / whole.sum(),
            }
            for average, value in expected.items():
                got = found[f"{name} {average}"][run]
                np.testing.assert_allclose(got, value, rtol=1e-6, err_msg=name)
    assert all(np.isnan(value[3]).all() for value in found.values())
    nothing = jtu.tree_map(jnp.zeros_like, of_classes(jnp.zeros(3), 0))
    assert all(np.isnan(x.compute()).all() for x in nothing.values())


def test_auroc():
    label = RNG.random(300) < 0.3
    # In the first row scores fall on bins, in the second they are anywhere, in the
    # third some score is none.
    anywhere = np.clip(RNG.normal(0.4 + 0.2 * label, 0.2), 0, 1)
    scores = np.stack([np.round(anywhere * 20) / 20, anywhere, anywhere])
    scores[2, 5] = 1.01
    make = functools.partial(eqf.AUROC, num_bins=21)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None, None))
    def area(scores, label, mask):
        total = masked_sum(jax.vmap(make)(scores, label), mask)
        return total.compute(), total

    scores = scores.astype(np.float32)
    whole = np.ones(300, bool)
    got, total = area(scores, label, whole)
    over = scores[:, label][:, :, None] - scores[:, ~label][:, None]
    exact = ((over > 0) + (over == 0) / 2).mean((1, 2))
    np.testing.assert_allclose(got[0], exact[0], rtol=1e-5)
    p = np.asarray(total.positive[1]) / label.sum()
    n = np.asarray(total.negative[1]) / (~label).sum()
    assert 0 < abs(got[1] - exact[1]) <= (p * n).sum() / 2 + 1e-6
    assert np.isnan(got[2])
    # One class alone has no area.
    assert np.isnan(area(scores, label, label)[0]).all()
    assert np.isnan(area(scores, label, ~label)[0]).all()
    odd = area(scores, label.astype(np.int32) * 2, whole)[0]
    assert np.isnan(odd).all()


def test_several_devices():
    columns = {
        "x": RNG.normal(size=(20, 3)).astype(np.float32),
        "y": RNG.integers(0, 3, 20).astype(np.int32),
        "domain": RNG.integers(0, 2, 20).astype(np.int32),
    }
    sizes = (7, 0, 12, 1)
    ends = np.cumsum(sizes)
    clients = eqf.data.FederatedDataset.from_mapping(
        {
            str(i): {name: x[end - size : end] for name, x in columns.items()}
            for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
        }
    )

    def metrics(model, example, key):
        logits, label = example["x"], example["y"]
        f1 = eqf.F1(logits, label)
        score = jax.nn.softmax(logits)[1]
        return {
            "f1": f1,
            "f1 of domains": eqf.PerDomain(f1, example["domain"], num_domains=2),
            "area": eqf.AUROC(score, label == 1, num_bins=11),
        }

    mesh = jax.make_mesh((2,), ("clients",))
    one, two = (eqf.Evaluator(clients, metrics, mesh=m) for m in (None, mesh))
    each, same = one.per_client(None).values, two.per_client(None).values
    for name, value in each.items():
        np.testing.assert_allclose(same[name], value, rtol=1e-6)
        assert np.isnan(value[1]).all()
    assert np.isfinite(one(None)["area"])


@pytest.mark.parametrize(
    "make",
    (
        lambda: eqf.PerDomain(eqf.Average(2.0), 1, num_domains=2),
        lambda: eqf.F1(jnp.array([0.0, 1.0]), 1),
        lambda: eqf.AUROC(jnp.asarray(0.5), 1, num_bins=3),
    ),
    ids=("PerDomain", "F1", "AUROC"),
)
def test_monoid(make):
    metric = make()
    zero = jtu.tree_map(jnp.zeros_like, metric)
    for same in (metric.merge(zero), zero.merge(metric)):
        np.testing.assert_array_equal(same.compute(), metric.compute())
    assert type(metric.merge(metric)) is type(metric)
    assert type(metric).__name__ in repr(metric)
