"""Metrics are monoids, and say what NumPy says."""

import functools

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import equifed as eqf
from equifed._metrics import as_metrics, masked_sum, RESERVED


NUMBERS = st.floats(-100, 100, width=32)
# With less the product with a number may be none that 32 bits hold.
WEIGHTS = st.just(0.0) | st.floats(2**-20, 100, width=32)


def average(pairs):
    return [eqf.Average(jnp.float32(x * w), jnp.float32(w)) for x, w in pairs]


def merged(metrics):
    return functools.reduce(lambda a, b: a.merge(b), metrics)


@pytest.fixture
def unchecked(monkeypatch):
    """As for a user, whose calls nobody holds against the annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@given(st.lists(st.tuples(NUMBERS, WEIGHTS), min_size=2, max_size=8), st.data())
@settings(deadline=None, max_examples=50)
def test_an_average_is_exact_over_any_grouping(pairs, data):
    metrics = average(pairs)
    cut = data.draw(st.integers(1, len(pairs) - 1))
    order = data.draw(st.permutations(range(len(pairs))))
    grouped = merged(metrics[:cut]).merge(merged(metrics[cut:]))
    permuted = merged([metrics[i] for i in order])
    x, w = np.array(pairs, np.float64).T
    expected = (x * w).sum() / w.sum() if w.sum() > 0 else np.nan
    tolerance = 1e-4 * np.abs(x * w).sum() / max(w.sum(), 1e-30) + 1e-6
    for metric in (merged(metrics), grouped, permuted):
        np.testing.assert_allclose(metric.compute(), expected, rtol=0, atol=tolerance)


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


def test_an_average_over_nothing_is_nan_with_finite_gradients():
    assert np.isnan(eqf.Average(jnp.zeros(()), jnp.zeros(())).compute())
    assert eqf.Average(3.0).compute() == 3.0

    def value(total, weight):
        average = eqf.Average(jnp.stack([total, total]), jnp.stack([weight, 2.0]))
        return jnp.nansum(average.compute())

    gradient = jax.jit(jax.grad(value, (0, 1)))
    assert gradient(1.0, 0.0) == (0.5, 0.0)
    assert gradient(1.0, 4.0) == (0.75, -1 / 16)
    # A vector of averages, with one weight or with many.
    np.testing.assert_array_equal(
        eqf.Average(jnp.array([2.0, 4.0]), 2.0).compute(), [1.0, 2.0]
    )
    np.testing.assert_array_equal(
        eqf.Average(jnp.array([2.0, 4.0]), jnp.array([0.0, 4.0])).compute(),
        [np.nan, 1.0],
    )
    assert np.isnan(eqf.Average(jnp.ones(2), 0.0).compute()).all()


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


def test_top_k_accuracy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 6)), rng.integers(0, 6, 20)
    ks = (1, 2, 6)

    @jax.jit
    @jax.vmap
    def each(logits, label):
        return [eqf.top_k_accuracy(logits, label, k=k) for k in ks]

    for k, got in zip(ks, each(logits, labels), strict=True):
        best = np.argsort(-logits, axis=1)[:, :k]
        np.testing.assert_array_equal(got.total, (best == labels[:, None]).any(1))
    tied = jnp.zeros(4)
    assert [float(eqf.top_k_accuracy(tied, y, k=2).total) for y in range(4)] == [
        1,
        1,
        0,
        0,
    ]


def test_k_is_a_number_of_logits(unchecked):
    for k, error in ((0, "at least 1"), (5, "at most 4"), (1.0, "an integer")):
        with pytest.raises((ValueError, TypeError), match=f"`k` must be {error}"):
            eqf.top_k_accuracy(jnp.zeros(4), 0, k=k)  # pyright: ignore[reportArgumentType]


OF_ONE = {
    "accuracy": eqf.accuracy,
    "top_k_accuracy": functools.partial(eqf.top_k_accuracy, k=2),
    "ConfusionMatrix": eqf.ConfusionMatrix,
    "cross_entropy": eqf.cross_entropy,
}


def said(name, logits, label):
    """What a function says of an example, as an array."""
    out = OF_ONE[name](logits, label)
    return out if name == "cross_entropy" else out.compute()


@pytest.mark.parametrize("name", OF_ONE)
@pytest.mark.parametrize("dtype", (np.int8, np.uint8, np.int32, np.uint32))
def test_a_label_without_a_logit_is_nan(name, dtype):
    logits = jnp.array([0.3, 0.1, 0.2])
    # The largest of the type too: -1 where it has no sign.
    bad = [3, 100, np.iinfo(dtype).max, *([-1] if np.iinfo(dtype).min < 0 else [])]
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        many = jax.jit(jax.vmap(functools.partial(said, name), in_axes=(None, 0)))
        got = many(logits, jnp.asarray([*bad, 0, 1, 2], dtype))
    assert np.isnan(got[: len(bad)]).all()
    assert np.isfinite(got[len(bad) :]).all()
    assert np.isnan(said(name, logits, 3)).all()


@pytest.mark.parametrize("label", (2**32, -(2**32), np.uint64(2**40), 2**31 + 1))
def test_a_label_of_64_bits_is_not_cut_short(label):
    # 2**32 is 0 in 32 bits.
    for wide in (label, np.asarray(label)):
        assert np.isnan(eqf.cross_entropy(jnp.zeros(3), wide))
    assert np.isfinite(eqf.cross_entropy(jnp.zeros((2, 3)), np.array([0, 2]))).all()


def test_labels_of_a_narrow_type_for_many_classes():
    # 300 classes do not fit eight bits, and 300 is 44 there.
    logits = jnp.asarray(5 * np.eye(300, dtype=np.float32)[44])
    assert float(eqf.accuracy(logits, jnp.uint8(44)).compute()) == 1.0
    for label in (44, 200):
        np.testing.assert_allclose(
            eqf.cross_entropy(logits, jnp.uint8(label)),
            eqf.cross_entropy(logits, jnp.int32(label)),
        )
    assert float(eqf.ConfusionMatrix(logits, jnp.uint8(44)).compute().sum()) == 1.0


@pytest.mark.parametrize("name", OF_ONE)
def test_nan_logits_say_nothing(name):
    for bad in ([np.nan] * 3, [1.0, np.nan, 0.0]):
        assert np.isnan(said(name, jnp.array(bad), 0)).all()


def test_a_bad_label_has_no_gradient_and_can_be_left_out():
    logits = jnp.array([[0.5, 0.25], [1.0, 2.0]])
    labels = jnp.array([-1, 1])

    def loss(logits):
        losses = eqf.cross_entropy(logits, labels)
        return jnp.where(labels >= 0, losses, 0.0).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    np.testing.assert_allclose(value, np.log1p(np.exp(-1.0)), rtol=1e-6)
    p = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(gradient, [[0, 0], [1 - p, p - 1]], rtol=1e-5)
    assert np.isnan(eqf.cross_entropy(logits, labels).sum())


@pytest.mark.parametrize("name", ("accuracy", "top_k_accuracy", "ConfusionMatrix"))
def test_a_batch_is_refused_where_one_example_is_meant(name, unchecked):
    for logits, labels in (
        (jnp.zeros((4, 3)), jnp.zeros(4, int)),
        (jnp.zeros((4, 3)), 0),
        (jnp.zeros(3), jnp.zeros(4, int)),
        (jnp.zeros(()), 0),
    ):
        with pytest.raises(ValueError, match=rf"`{name}` is of ONE.*vmap\(eqf.{name}"):
            OF_ONE[name](logits, labels)


def test_there_is_a_label_for_each_logits(unchecked):
    for labels in (0, jnp.zeros(3, int), jnp.zeros((2, 1), int), jnp.zeros((), int)):
        with pytest.raises(ValueError, match=r"one label for each.*shape \(2, 3\)"):
            eqf.cross_entropy(jnp.zeros((2, 3)), labels)
    with pytest.raises(ValueError, match="one label for each"):
        eqf.cross_entropy(jnp.zeros(()), 0)


@pytest.mark.parametrize("name", OF_ONE)
def test_logits_and_labels_are_not_mixed_up(name, unchecked):
    with pytest.raises(TypeError, match=f"logits of `{name}`.*got int32"):
        OF_ONE[name](jnp.arange(3), 0)
    with pytest.raises(TypeError, match=f"label of `{name}`.*got float32"):
        OF_ONE[name](jnp.zeros(3), jnp.zeros(()))
    # Yes and no are classes.
    assert np.isfinite(said(name, jnp.zeros(2), jnp.asarray(True))).all()


def test_confusion_matrix():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(30, 4)), rng.integers(0, 4, 30)

    @jax.jit
    def total(logits, labels):
        each = jax.vmap(eqf.ConfusionMatrix)(logits, labels)
        return masked_sum(each, jnp.ones(30, bool))

    got = total(logits, labels)
    expected = np.zeros((4, 4))
    for x, y in zip(logits, labels, strict=True):
        expected[y, x.argmax()] += 1
    np.testing.assert_array_equal(got.compute(), expected)


def test_cross_entropy():
    # Known from elsewhere, to every digit of a float32.
    got = eqf.cross_entropy(jnp.array([1.2, 0.4]), 1)
    np.testing.assert_allclose(got, 1.1711007, rtol=1e-6)

    rng = np.random.default_rng(0)
    x, labels = 5 * rng.normal(size=(7, 3, 5)), rng.integers(0, 5, (7, 3))
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    chosen = np.take_along_axis(p, labels[..., None], -1)[..., 0]

    @jax.jit
    @jax.grad
    def gradient(x):
        return eqf.cross_entropy(x, jnp.asarray(labels)).sum()

    got = jax.jit(eqf.cross_entropy)(x, labels)
    np.testing.assert_allclose(got, -np.log(chosen), rtol=1e-5, atol=1e-6)
    one_hot = np.eye(5)[labels]
    np.testing.assert_allclose(gradient(x), p - one_hot, atol=1e-6)


@pytest.mark.parametrize("big", (1e4, 1e30, np.inf))
def test_cross_entropy_of_a_hopeless_class_is_finite(big):
    # An infinity is how a class that is out of the question is masked.
    logits = jnp.array([1.2, 0.4, -big])
    value, gradient = jax.jit(jax.value_and_grad(eqf.cross_entropy))(logits, 1)
    np.testing.assert_allclose(value, 1.1711007, rtol=1e-6)
    p = 1 / (1 + np.exp(-0.8))
    np.testing.assert_allclose(gradient, [p, -p, 0.0], rtol=1e-5)


def test_cross_entropy_keeps_the_dtype():
    logits = jnp.array([1.0, 2.0], jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        assert eqf.cross_entropy(logits, 0).dtype == jnp.bfloat16
        assert eqf.cross_entropy(logits, jnp.uint8(0)).dtype == jnp.bfloat16


def test_what_a_loss_reports(unchecked):
    average = eqf.Average(2.0, 4.0)
    metrics = as_metrics(jnp.asarray(1.0), {"n": 3, "yes": True, "seq": average})
    assert {name: float(m.compute()) for name, m in metrics.items()} == {
        "loss": 1.0,
        "n": 3.0,
        "yes": 1.0,
        "seq": 0.5,
    }
    for taken in RESERVED:
        with pytest.raises(ValueError, match=f"'{taken}'.*another name"):
            as_metrics(jnp.asarray(1.0), {taken: 2.0})
    with pytest.raises(TypeError, match="must be text, got 3"):
        as_metrics(jnp.asarray(1.0), {3: 2.0})  # pyright: ignore[reportArgumentType]


def test_metrics_tell_their_numbers():
    matrix = eqf.ConfusionMatrix(jnp.array([0.1, 0.9]), 0)
    assert repr(matrix) == "ConfusionMatrix([[0.0, 1.0], [0.0, 0.0]])"
    averages = {"a": eqf.Average(3.0, 4.0), "b": eqf.Average(0.0, 0.0)}
    assert repr(averages) == "{'a': Average(0.75), 'b': Average(nan)}"
    assert repr(eqf.Sum(1234567)) == "Sum(1.23457e+06)"
    # What is not known or too long is described.
    assert "f32[200]" in repr(eqf.Sum(jnp.ones(200)))
    jax.eval_shape(lambda x: repr(eqf.Sum(x)) and x, 1.0)
    assert "float32" in repr(jax.eval_shape(lambda: eqf.Sum(1.0)))


def test_a_masked_sum_ignores_what_is_masked():
    metrics = eqf.Average(jnp.array([1.0, jnp.nan, 3.0]), jnp.ones(3))
    total = masked_sum(metrics, jnp.array([True, False, True]))
    assert total.compute() == 2.0
