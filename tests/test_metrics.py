"""Metrics are monoids, and say what NumPy says."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import equifed as eqf
from equifed._metrics import as_metrics, masked_sum


NUMBERS = st.floats(-100, 100, width=32)
WEIGHTS = st.floats(0, 100, width=32)


def average(pairs):
    return [eqf.Average(jnp.float32(x * w), jnp.float32(w)) for x, w in pairs]


def merged(metrics):
    return functools.reduce(lambda a, b: a.merge(b), metrics)


@given(st.lists(st.tuples(NUMBERS, WEIGHTS), min_size=2, max_size=8), st.data())
@settings(deadline=None, max_examples=50)
def test_an_average_is_exact_over_any_grouping(pairs, data):
    metrics = average(pairs)
    cut = data.draw(st.integers(1, len(pairs) - 1))
    order = data.draw(st.permutations(range(len(pairs))))
    grouped = merged(metrics[:cut]).merge(merged(metrics[cut:]))
    permuted = merged([metrics[i] for i in order])
    x, w = np.array(pairs, np.float64).T
    expected = (x * w).sum() / w.sum() if w.sum() > 0 else 0.0
    tolerance = 1e-4 * np.abs(x * w).sum() / max(w.sum(), 1e-30) + 1e-6
    for metric in (merged(metrics), grouped, permuted):
        assert abs(float(metric.compute()) - expected) <= tolerance


@pytest.mark.parametrize(
    "metric",
    (
        eqf.Average(jnp.array([1.0, 2.0]), jnp.array([2.0, 4.0])),
        eqf.Sum(3),
        eqf.ConfusionMatrix(jnp.array([0.1, 0.9]), 0),
    ),
    ids=lambda metric: type(metric).__name__,
)
def test_monoid(metric):
    zero = jtu.tree_map(jnp.zeros_like, metric)
    for same in (metric.merge(zero), zero.merge(metric)):
        np.testing.assert_array_equal(same.compute(), metric.compute())
    twice = metric.merge(metric)
    left, right = twice.merge(metric), metric.merge(twice)
    np.testing.assert_array_equal(left.compute(), right.compute())
    assert type(left) is type(metric)


def test_an_average_without_weight_is_zero_with_a_finite_gradient():
    assert eqf.Average(jnp.zeros(()), jnp.zeros(())).compute() == 0.0
    assert eqf.Average(3.0).compute() == 3.0

    def value(total):
        return eqf.Average(total, jnp.zeros(())).compute()

    assert jax.grad(value)(1.0) == 0.0
    # A vector of averages, with one weight or with many.
    np.testing.assert_array_equal(
        eqf.Average(jnp.array([2.0, 4.0]), 2.0).compute(), [1.0, 2.0]
    )
    np.testing.assert_array_equal(
        eqf.Average(jnp.array([2.0, 4.0]), jnp.array([0.0, 4.0])).compute(), [0.0, 1.0]
    )


def test_sums_are_wide():
    # 257 ones add up to 256 in bfloat16.
    one = eqf.Average(jnp.ones((), jnp.bfloat16))
    assert one.total.dtype == one.weight.dtype == jnp.float32
    assert merged([one] * 300).total == 300.0
    assert eqf.Sum(True).compute() == 1.0


def test_accuracy():
    logits = jnp.array([0.1, 0.7, 0.7])
    # The lowest index wins a tie.
    assert [float(eqf.accuracy(logits, y).compute()) for y in range(3)] == [0, 1, 0]


def test_top_k_accuracy(getkey):
    logits = np.asarray(jr.normal(getkey(), (20, 6)))
    labels = np.asarray(jr.randint(getkey(), (20,), 0, 6))
    for k in (1, 2, 6):
        got = jax.vmap(functools.partial(eqf.top_k_accuracy, k=k))(
            jnp.asarray(logits), jnp.asarray(labels)
        )
        best = np.argsort(-logits, axis=1)[:, :k]
        np.testing.assert_array_equal(got.total, (best == labels[:, None]).any(1))
    tied = jnp.zeros(4)
    assert [float(eqf.top_k_accuracy(tied, y, k=2).total) for y in range(4)] == [
        1,
        1,
        0,
        0,
    ]
    for k in (0, 5, -1):
        with pytest.raises(ValueError, match=f"between 1 and 4, got {k}"):
            eqf.top_k_accuracy(tied, 0, k=k)


def test_confusion_matrix(getkey):
    logits = jr.normal(getkey(), (30, 4))
    labels = jr.randint(getkey(), (30,), 0, 4)
    got = masked_sum(jax.vmap(eqf.ConfusionMatrix)(logits, labels), jnp.ones(30, bool))
    expected = np.zeros((4, 4))
    for x, y in zip(np.asarray(logits), np.asarray(labels), strict=True):
        expected[y, x.argmax()] += 1
    np.testing.assert_array_equal(got.compute(), expected)


def test_cross_entropy(getkey):
    # Known from elsewhere, to every digit of a float32.
    got = eqf.cross_entropy(jnp.array([1.2, 0.4]), 1)
    np.testing.assert_allclose(got, 1.1711007, rtol=1e-6)

    logits = 5 * jr.normal(getkey(), (7, 3, 5))
    labels = jr.randint(getkey(), (7, 3), 0, 5)
    x = np.asarray(logits, np.float64)
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    chosen = np.take_along_axis(p, np.asarray(labels)[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        eqf.cross_entropy(logits, labels), -np.log(chosen), rtol=1e-5, atol=1e-6
    )
    gradient = jax.grad(lambda x: eqf.cross_entropy(x, labels).sum())(logits)
    one_hot = np.eye(5)[np.asarray(labels)]
    np.testing.assert_allclose(gradient, p - one_hot, atol=1e-6)


@pytest.mark.parametrize("big", (1e4, 1e30, np.inf))
def test_cross_entropy_of_a_hopeless_class_is_finite(big):
    # An infinity is how a class that is out of the question is masked.
    logits = jnp.array([1.2, 0.4, -big])
    value, gradient = jax.value_and_grad(eqf.cross_entropy)(logits, 1)
    np.testing.assert_allclose(value, 1.1711007, rtol=1e-6)
    p = 1 / (1 + np.exp(-0.8))
    np.testing.assert_allclose(gradient, [p, -p, 0.0], rtol=1e-5)


def test_cross_entropy_keeps_the_dtype():
    logits = jnp.array([1.0, 2.0], jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        assert eqf.cross_entropy(logits, 0).dtype == jnp.bfloat16
        assert eqf.cross_entropy(logits, jnp.uint8(0)).dtype == jnp.bfloat16


def test_what_a_loss_reports():
    average = eqf.Average(2.0, 4.0)
    metrics = as_metrics(jnp.asarray(1.0), {"n": 3, "yes": True, "seq": average})
    assert {name: float(m.compute()) for name, m in metrics.items()} == {
        "loss": 1.0,
        "n": 3.0,
        "yes": 1.0,
        "seq": 0.5,
    }
    with pytest.raises(ValueError, match="'loss'.*another name"):
        as_metrics(jnp.asarray(1.0), {"loss": 2.0})


def test_a_masked_sum_ignores_what_is_masked():
    metrics = eqf.Average(jnp.array([1.0, jnp.nan, 3.0]), jnp.ones(3))
    total = masked_sum(metrics, jnp.array([True, False, True]))
    assert total.compute() == 2.0
