"""Robust aggregators: the papers' equations in NumPy, and what f clients can do."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import equifed as eqf
import equifed.robust as eqr
from equifed import testing
from equifed._aggregator import columns
from equifed.robust import distances
from equifed.robust.base import gathered

from .algorithms import SGD


NAN = np.nan
BATCHING = eqf.data.Steps(2, batch_size=2)


def aggregate(aggregator, x, weights=None, seed=0, state=None):
    """What an executor does: encode each, then sum or stack, then decode."""
    weights = np.ones(len(x)) if weights is None else weights
    x, weights = (jnp.asarray(np.asarray(a, np.float32)) for a in (x, weights))
    state = aggregator.init({"w": x[0, :-1], "b": x[0, -1]}) if state is None else state
    out, state, metrics = _aggregate(aggregator, x, weights, state, jr.key(seed))
    return out, state, metrics, np.append(out.payload["w"], out.payload["b"])


@eqx.filter_jit
def _aggregate(aggregator, x, weights, state, key):
    def encode(x, weight):
        # The number beside it is twice the first one of the payload.
        message = eqf.Message({"w": x[:-1], "b": x[-1]}, weight, 2 * x[0])
        return aggregator.encode(message, state, key=key)[0]

    encoded = jax.vmap(encode)(x, weights)
    if not aggregator.gathers:
        encoded = jtu.tree_map(lambda x: x.sum(0), encoded)
    return aggregator.decode(encoded, state, key=key)


def messages(n, seed=0, size=5):
    return np.random.default_rng(seed).normal(size=(n, size)).astype(np.float32)


# Ten lines of NumPy each.


def krum(x, f, m=1):
    n = len(x)
    squares = ((x[:, None] - x[None]) ** 2).sum(-1)
    np.fill_diagonal(squares, np.inf)
    scores = np.sort(squares, axis=1)[:, : n - f - 2].sum(1)
    return x[np.argsort(scores, kind="stable")[:m]].mean(0)


def bulyan(x, f):
    theta, left, chosen = len(x) - 2 * f, list(range(len(x))), []
    while len(chosen) < theta:
        scores = []
        for i in left:
            others = sorted(((x[i] - x[j]) ** 2).sum() for j in left if j != i)
            scores.append(sum(others[: max(len(left) - f - 2, 1)]))
        chosen.append(left.pop(int(np.argmin(scores))))
    x = x[chosen]
    order = np.argsort(np.abs(x - np.median(x, axis=0)), axis=0)[: theta - 2 * f]
    return np.take_along_axis(x, order, axis=0).mean(0)


def weiszfeld(x, weights, times, nu=1e-6):
    v = np.average(x, axis=0, weights=weights)
    for _ in range(times):
        beta = weights / np.maximum(nu, np.linalg.norm(x - v, axis=1))
        v = np.average(x, axis=0, weights=beta)
    return v


def clipped(x, v, tau, times):
    for _ in range(times):
        diff = x - v
        scale = np.minimum(1, tau / np.linalg.norm(diff, axis=1))
        v = v + (scale[:, None] * diff).mean(0)
    return v


def mixing(x, f):
    squares = ((x[:, None] - x[None]) ** 2).sum(-1)
    return np.stack([x[np.argsort(row)[: len(x) - f]].mean(0) for row in squares])


def dnc(x, cut):
    """With all coordinates, once."""
    centred = x - x.mean(0)
    v = np.linalg.svd(centred, full_matrices=False)[2][0]
    return x[np.argsort((centred @ v) ** 2)[: len(x) - cut]].mean(0)


PRESENT = np.array([3.0, 1.0, 0.0, 5.0, 2.0, 0.0, 2.0, 7.0, 1.0, 4.0])
WEIGHTS = PRESENT[PRESENT > 0]
RULES = {
    "Krum": (eqr.Krum(2), lambda x: krum(x, 2)),
    "multi-Krum": (eqr.Krum(1, num_selected=4), lambda x: krum(x, 1, 4)),
    "Bulyan": (eqr.Bulyan(1), lambda x: bulyan(x, 1)),
    "Bulyan of all": (eqr.Bulyan(0), lambda x: x.mean(0)),
    "GeometricMedian": (eqr.GeometricMedian(3), lambda x: weiszfeld(x, WEIGHTS, 3)),
    "CentredClipping": (
        eqr.CentredClipping(0.7, num_iterations=3),
        lambda x: clipped(x, np.zeros(5), 0.7, 3),
    ),
    "DnC": (eqr.DnC(2, num_coordinates=5), lambda x: dnc(x, 2)),
    "DnC, more": (
        eqr.DnC(2, num_coordinates=5, filter_share=1.5),
        lambda x: dnc(x, 3),
    ),
    "mixing": (
        eqr.NearestNeighbourMixing(eqf.Median(), 3),
        lambda x: np.median(mixing(x, 3), axis=0),
    ),
    "mixing, a mean": (
        eqr.NearestNeighbourMixing(eqf.WeightedMean(), 3),
        lambda x: np.average(mixing(x, 3), axis=0, weights=WEIGHTS),
    ),
    # Buckets of equal size have the mean of all, however they are dealt.
    "bucketing": (eqr.Bucketing(eqf.WeightedMean(), 4), lambda x: x.mean(0)),
    "buckets of one": (
        eqr.Bucketing(eqr.Krum(2), 1),
        lambda x: krum(x, 2),
    ),
    "DropLarge": (
        eqr.DropLarge(eqf.WeightedMean(), 2.0),
        lambda x: np.average(
            x, axis=0, weights=WEIGHTS * (np.linalg.norm(x, axis=1) <= 2)
        ),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_it_is_the_paper(name):
    aggregator, reference = RULES[name]
    for fill in (1e6, NAN):
        x = messages(len(PRESENT), seed=3)
        x[PRESENT == 0] = fill
        out, _, metrics, got = aggregate(aggregator, x, PRESENT)
        expected = reference(x[PRESENT > 0])
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5)
        if name != "DropLarge":
            assert out.count == 8
        assert out.accept
        if "rejected" in metrics:
            assert metrics["rejected"].compute() == 0
        if name not in ("Bulyan", "CentredClipping", "mixing"):
            np.testing.assert_allclose(out.stats, 2 * got[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_without_messages_there_is_no_change(name):
    out, _, _, got = aggregate(RULES[name][0], np.full((10, 5), NAN), np.zeros(10))
    np.testing.assert_array_equal(got, 0.0)
    assert out.count == out.weight == 0
    assert not out.accept


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("bad", (NAN, np.inf, -np.inf, 1e30))
def test_what_cannot_be_measured_counts_as_absent(name, bad):
    x = messages(10, seed=1)
    x[4, 2] = bad
    weights = np.where(np.arange(10) == 4, 0.0, np.arange(1.0, 11.0))
    _, _, _, expected = aggregate(RULES[name][0], x, weights)
    out, _, _, got = aggregate(RULES[name][0], x, np.arange(1.0, 11.0))
    np.testing.assert_array_equal(got, expected)
    assert np.isfinite(got).all()
    if name != "DropLarge":
        assert out.count == 9


@pytest.mark.parametrize(
    ("aggregator", "least"),
    (
        (eqr.Krum(2), 7),
        (eqr.Krum(2, num_selected=6), 8),
        (eqr.Bulyan(1), 7),
        (eqr.NearestNeighbourMixing(eqf.Median(), 2), 5),
        (eqr.NearestNeighbourMixing(eqr.Krum(1), 3), 7),
        (eqr.NearestNeighbourMixing(eqr.Krum(2), 1), 7),
        (eqr.Bucketing(eqr.Krum(0), 2), 5),
        (eqr.DnC(2, num_coordinates=5), 5),
        (eqr.DnC(2, num_coordinates=5, num_iterations=4), 9),
    ),
)
def test_a_round_with_too_few_messages_is_rejected(aggregator, least):
    for count in (least, least - 1):
        out, _, metrics, _ = aggregate(aggregator, messages(10), np.arange(10) < count)
        assert bool(out.accept) == (count == least)
        assert bool(metrics["rejected"].compute()) == (count != least)


def test_the_model_stays_where_it_was_in_a_rejected_round():
    problem = testing.Quadratics(
        (1.0,) * 7, tuple(np.arange(1.0, 8.0).tolist()), (2,) * 7
    )
    krum = eqf.FedAvg(testing.quadratic_loss, SGD, BATCHING, aggregator=eqr.Krum(2))
    state = krum.init(testing.Point(0.3), num_clients=7)
    cohort = eqf.data.cohort(problem.dataset(), BATCHING)
    after, metrics = krum.round(state, cohort, key=jr.key(0))
    assert metrics["rejected"] == 0
    assert after.model.x != state.model.x
    few = eqx.tree_at(
        lambda c: (c.stop, c.num_examples),
        cohort,
        (
            cohort.stop.at[0, 0].set(cohort.start[0, 0]),
            cohort.num_examples.at[0, 0].set(0),
        ),
    )
    after, metrics = krum.round(state, few, key=jr.key(0))
    assert metrics["rejected"] == 1
    assert metrics["clients"] == 6
    assert after.model.x == state.model.x
    assert after.round == 1


def test_centred_clipping_goes_on_from_where_it_was():
    x, y = messages(6, seed=1), messages(6, seed=2) + 2
    rule = eqr.CentredClipping(0.5)
    _, state, _, first = aggregate(rule, x)
    _, _, _, got = aggregate(rule, y, state=state)
    np.testing.assert_allclose(first, clipped(x, np.zeros(5), 0.5, 1), rtol=1e-5)
    expected = clipped(y, clipped(x, np.zeros(5), 0.5, 1), 0.5, 1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_buckets_are_dealt_anew_and_do_not_know_of_empty_slots():
    rule = eqr.Bucketing(eqf.Median(), 2)
    x = messages(8)
    results = [aggregate(rule, x, seed=seed)[3] for seed in range(3)]
    assert not np.allclose(results[0], results[1])
    # Each is the median of means of pairs: of some pairing.
    more = np.concatenate([x[:3], np.full((2, 5), NAN), x[3:], x[:4]])
    weights = np.array([1] * 3 + [0] * 2 + [1] * 5 + [0] * 4)
    _, _, _, got = aggregate(rule, more, weights)
    np.testing.assert_allclose(got, results[0], rtol=1e-5)


def test_buckets_are_means_of_so_many():
    # Of a one among zeros: one bucket has 1/3 of it; the largest value says so.
    x = np.zeros((7, 5), np.float32)
    x[:, 0] = 3.0 ** np.arange(7)
    seen = eqr.Bucketing(eqr.Krum(0), 3)
    for seed in range(4):
        _, _, _, got = aggregate(seen, x, seed=seed)
        parts = [x[list(c), 0].mean() for c in _subsets(7, (1, 3))]
        assert np.isclose(parts, got[0], rtol=1e-5).any()


def _subsets(n, sizes):
    return [c for s in sizes for c in itertools.combinations(range(n), s)]


def test_dnc_looks_at_other_numbers_each_time():
    # What is bad in one number only is seen where that number is drawn.
    x = 0.1 * messages(9)
    x[3, 0] = 100.0
    seen = [
        aggregate(eqr.DnC(1, num_coordinates=2), x, seed=seed)[3][0] < 1
        for seed in range(12)
    ]
    assert True in seen
    assert False in seen


# Distances.


def stacked(x):
    x = jnp.asarray(x)

    def one(x):
        payload = {"a": x[:3], "b": x[3:].reshape(2, -1)}
        return gathered(eqf.Message(payload, jnp.asarray(1.0)), None)

    return jax.vmap(one)(x)


@pytest.mark.parametrize("piece", (columns.PIECE, 4))
def test_distances_in_pieces(piece, monkeypatch):
    monkeypatch.setattr(columns, "PIECE", piece)
    # A common offset, and one that is far away: neither costs the others a digit.
    x = messages(6, size=13)
    x[5] += 1e6
    for offset in (0.0, 4096.0):
        y = (x + offset).astype(np.float32)
        wide = y.astype(np.float64)
        expected = ((wide[:, None] - wide[None]) ** 2).sum(-1)
        got = distances.pairwise_squares(stacked(y))
        np.testing.assert_allclose(got, expected, rtol=1e-5)
        centre = jtu.tree_map(lambda a: a[1], stacked(y).message.payload)
        got = distances.distances_to(stacked(y), centre)
        np.testing.assert_allclose(got, np.sqrt(expected[1]), rtol=1e-5)


@pytest.mark.parametrize(
    ("rule", "most"),
    (
        (eqf.Median(), 0.2),
        (eqf.TrimmedMean(0.2), 0.2),
        (eqr.Krum(2), 0.2),
        (eqr.Bulyan(2), 0.2),
        (eqr.GeometricMedian(3), 0.2),
        (eqr.CentredClipping(1.0), 0.2),
        # Its draw permutes the places of all numbers, however many messages there are.
        (eqr.DnC(2, 2000), 0.35),
        (eqr.NearestNeighbourMixing(eqr.Krum(2), 2), 1.2),
        (eqr.Bucketing(eqr.Krum(2), 2), 0.7),
    ),
    ids=lambda x: type(x).__name__,
)
def test_there_is_no_second_copy_of_the_messages(rule, most):
    size = 2**20

    def decode(messages):
        state = rule.init(jnp.zeros(size))
        return rule.decode(messages, state, key=jr.key(0))[0].payload

    one = jax.eval_shape(
        lambda: gathered(eqf.Message(jnp.zeros(size), jnp.ones(())), 0)
    )
    all_of_them = jtu.tree_map(
        lambda x: jax.ShapeDtypeStruct((16, *x.shape), x.dtype), one
    )
    compiled = jax.jit(decode).lower(all_of_them).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    assert analysis.temp_size_in_bytes < most * 16 * size * 4


def test_rules_in_pieces(monkeypatch):
    # Of a shape that no other test has: no program of larger pieces is known for it.
    monkeypatch.setattr(columns, "PIECE", 3)
    x = messages(9, size=11)
    for rule, expected in (
        (eqr.Bulyan(1), bulyan(x, 1)),
        (eqr.Krum(2), krum(x, 2)),
        (eqr.GeometricMedian(2), weiszfeld(x, np.ones(9), 2)),
        (eqf.Median(), np.median(x, 0)),
        (eqf.TrimmedMean(0.25), np.sort(x, 0)[2:-2].mean(0)),
    ):
        np.testing.assert_allclose(aggregate(rule, x)[3], expected, rtol=1e-4)


@eqx.filter_jit
def in_half(rule, state, x):
    def encode(x):
        message = eqf.Message(x, jnp.asarray(1.0))
        return rule.encode(message, state, key=jr.key(0))[0]

    return rule.decode(jax.vmap(encode)(x), state, key=jr.key(0))


def test_half_precision():
    x = jnp.asarray(messages(7), jnp.bfloat16)
    for rule in (
        eqr.Krum(2),
        eqr.Bulyan(1),
        eqr.GeometricMedian(2),
        eqr.CentredClipping(1.0, num_iterations=2),
        eqr.DnC(2, num_coordinates=3),
        eqr.NearestNeighbourMixing(eqf.Median(), 2),
        eqr.Bucketing(eqf.UniformMean(), 2),
    ):
        state = rule.init(x[0])
        out, new, _ = in_half(rule, state, x)
        assert np.isfinite(np.asarray(out.payload, np.float32)).all()
        assert eqx.tree_equal(*(jtu.tree_map(jnp.zeros_like, s) for s in (new, state)))


# What f clients can do.

N, F = 12, 2
# A mean of honest messages, or one of them, is never further from their mean than
# the farthest is; a median or a value near it is not, in any number alone.
ROBUST = {
    "Krum": (eqr.Krum(F), 1.0),
    "multi-Krum": (eqr.Krum(F, num_selected=5), 1.0),
    "Bulyan": (eqr.Bulyan(F), 5**0.5),
    "DnC": (eqr.DnC(F, num_coordinates=5), 1.0),
    # RFA: at most 2 (1 - a) / (1 - 2a) times the mean distance, a = f / n, if solved.
    "GeometricMedian": (eqr.GeometricMedian(30), 2 * (1 - F / N) / (1 - 2 * F / N)),
    "mixing": (eqr.NearestNeighbourMixing(eqf.Median(), F), 2 * 5**0.5),
    "bucketing": (eqr.Bucketing(eqf.Median(), 2), 2 * 5**0.5),
}


@pytest.mark.parametrize("name", ROBUST)
@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from((1.0, 1e3, 1e6, 1e12)),
    place=st.integers(0, N - F),
    alike=st.booleans(),
)
def test_so_many_clients_cannot_carry_it_away(name, seed, scale, place, alike):
    rule, factor = ROBUST[name]
    honest = messages(N - F, seed) + 100 * messages(1, seed + 1)
    # The top singular direction is one: what is bad in another is not seen.
    alike = alike or name == "DnC"
    bad = scale * messages(1 if alike else F, seed + 2)
    bad = np.broadcast_to(bad, (F, 5))
    x = np.concatenate([honest[:place], bad, honest[place:]])
    _, _, _, got = aggregate(rule, x, seed=seed % 7)
    mean = honest.mean(0)
    radius = np.linalg.norm(honest - mean, axis=1).max()
    assert np.linalg.norm(got - mean) <= factor * radius * (1 + 1e-3) + 1e-3
    if scale >= 1e6:  # A mean is carried away.
        assert np.linalg.norm(x.mean(0) - mean) > 1e3 * radius


@settings(deadline=None, max_examples=15, derandomize=True)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from((1.0, 1e3, 1e6)))
def test_clipping_bounds_what_each_can_move(seed, scale):
    x = messages(N, seed)
    y = np.concatenate([x[:-F], scale * messages(F, seed + 1)])
    rule = eqr.CentredClipping(0.5)
    moved = aggregate(rule, y)[3] - aggregate(rule, x)[3]
    assert np.linalg.norm(moved) <= 2 * F * 0.5 / N * (1 + 1e-5)


# In whole rounds.


def test_the_same_bits_on_several_devices():
    rules = (eqr.Bulyan(1), eqr.Bucketing(eqr.GeometricMedian(2), 2))
    problem = testing.Quadratics((1.0,) * 8, tuple(np.arange(8.0).tolist()), (2,) * 8)
    mesh = jax.make_mesh((4,), ("clients",))
    for rule in rules:
        algorithm = eqf.FedAvg(testing.quadratic_loss, SGD, BATCHING, aggregator=rule)
        state = algorithm.init(testing.Point(0.3), num_clients=8)
        cohort = eqf.data.cohort(problem.dataset(), BATCHING, mesh=mesh)
        after, _ = algorithm.round(state, cohort, key=jr.key(0))
        alone = eqf.data.cohort(problem.dataset(), BATCHING)
        expected, _ = algorithm.round(state, alone, key=jr.key(0))
        assert after.model.x == expected.model.x


SWEPT = {
    "CentredClipping": eqr.CentredClipping,
    "GeometricMedian": lambda nu: eqr.GeometricMedian(2, nu=nu),
    "DnC": lambda c: eqr.DnC(2, num_coordinates=5, filter_share=c),
    "DropLarge": lambda norm: eqr.DropLarge(eqf.UniformMean(), norm),
}


@pytest.mark.parametrize("name", SWEPT)
def test_a_sweep_over_their_numbers_is_the_loop(name):
    x, values = messages(10), np.array([0.5, 1.5, 2.5], np.float32)
    state = eqr.CentredClipping(1.0).init({"w": x[0, :-1], "b": x[0, -1]})

    def value(number):
        ones = jnp.ones(10, jnp.float32)
        rule = SWEPT[name](number)
        kept = state if name == "CentredClipping" else None
        return _aggregate(rule, jnp.asarray(x), ones, kept, jr.key(0))[0].payload["w"]

    each = [aggregate(SWEPT[name](number), x)[3][:-1] for number in values]
    swept = jax.jit(jax.vmap(value))(values)
    np.testing.assert_allclose(swept, each, rtol=1e-5, atol=1e-6)
    assert not np.allclose(each[0], each[2])


@pytest.mark.parametrize("name", RULES)
def test_it_has_a_derivative(name):
    x = jnp.asarray(messages(10, seed=5))
    rule = RULES[name][0]
    state = rule.init({"w": x[0, :-1], "b": x[0, -1]})

    def value(x):
        out, _, _ = _aggregate(rule, x, jnp.ones(10, jnp.float32), state, jr.key(0))
        return jnp.sum(out.payload["w"] ** 2)

    grad = jax.jit(jax.grad(value))(x)
    assert np.isfinite(grad).all()
    assert (grad != 0).any()
    step = 1e-3 * np.asarray(messages(10, seed=6))
    numeric = (value(x + step) - value(x - step)) / 2
    np.testing.assert_allclose(numeric, jnp.sum(grad * step), rtol=2e-2, atol=1e-5)


@pytest.mark.parametrize("of", (np.int64, jnp.int32))
def test_a_number_may_be_an_array(of):
    """Numbers that set shapes are no inputs of the program, whatever they came as."""
    for rule, same in (
        (eqr.Krum(of(1), num_selected=of(2)), eqr.Krum(1, num_selected=2)),
        (eqr.Bulyan(of(1)), eqr.Bulyan(1)),
        (eqr.DnC(of(1), of(4), num_iterations=of(2)), eqr.DnC(1, 4, num_iterations=2)),
        (eqr.GeometricMedian(of(3)), eqr.GeometricMedian(3)),
        (eqr.Bucketing(eqf.Median(), of(2)), eqr.Bucketing(eqf.Median(), 2)),
    ):
        assert eqx.tree_equal(rule, same)
        assert jtu.tree_structure(rule) == jtu.tree_structure(same)
