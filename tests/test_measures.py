"""Metrics of domains and of classes say what NumPy says, NaN where there is nothing to
say, and the same over any grouping.
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
RNG = np.random.default_rng(0)


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
