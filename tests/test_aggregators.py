"""Aggregators against NumPy, message by message and in whole rounds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest
from scipy import stats

import equifed as eqf
import equifed.posterior as eqp
from equifed import testing


NAN = np.nan


def aggregate(aggregator, x, weights, stat=None):
    """What an executor does: encode each, then sum or stack, then decode.

    The rows of `x` are the messages: the last number is one leaf, the others another.
    """
    x, weights = (jnp.asarray(a, jnp.float32) for a in (x, weights))
    return _aggregate(aggregator, x, weights, stat)


@eqx.filter_jit
def _aggregate(aggregator, x, weights, stat):
    state, key = aggregator.init(None), jr.key(0)

    def encode(x, weight, stat):
        message = eqf.Message({"w": x[:-1], "b": x[-1]}, weight, stat)
        return aggregator.encode(message, state, key=key)[0]

    encoded = jax.vmap(encode)(x, weights, stat)
    if not aggregator.gathers:
        encoded = jtu.tree_map(lambda x: x.sum(0), encoded)
    out, _, _ = aggregator.decode(encoded, state, key=key)
    return out, jnp.append(out.payload["w"], out.payload["b"])


def messages(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)


# A message of weight 0 is absent, whatever it holds.
PRESENT = np.array([3.0, 1.0, 0.0, 5.0, 0.0, 2.0, 7.0])


def with_absent(fill):
    x = messages(7)
    x[PRESENT == 0] = fill
    return x, x[PRESENT > 0]


REFERENCES = {
    "weighted": (
        eqf.WeightedMean(),
        lambda x: np.average(x, axis=0, weights=PRESENT[PRESENT > 0]),
    ),
    "uniform": (eqf.UniformMean(), lambda x: x.mean(0)),
    "median": (eqf.Median(), lambda x: np.median(x, axis=0)),
    "trimmed": (eqf.TrimmedMean(0.25), lambda x: stats.trim_mean(x, 0.25, axis=0)),
    "untrimmed": (eqf.TrimmedMean(0.0), lambda x: x.mean(0)),
}


@pytest.mark.parametrize("fill", (100.0, NAN, np.inf))
@pytest.mark.parametrize("name", REFERENCES)
def test_aggregate(name, fill):
    aggregator, reference = REFERENCES[name]
    x, present = with_absent(fill)
    stat = jnp.asarray(np.where(PRESENT > 0, np.arange(7), NAN), jnp.float32)
    out, got = aggregate(aggregator, x, PRESENT, stat)
    np.testing.assert_allclose(got, reference(present), rtol=1e-5, atol=1e-6)
    assert out.count == 5
    weights = PRESENT if name == "weighted" else PRESENT > 0
    assert out.weight == (5 if name == "uniform" else PRESENT.sum())
    # What aggregators must not distort is averaged with the same weights.
    expected = np.average(np.arange(7), weights=weights)
    np.testing.assert_allclose(out.stats, expected, rtol=1e-5)


@pytest.mark.parametrize("name", REFERENCES)
def test_without_messages_there_is_no_change(name):
    for x in (messages(3), np.full((3, 4), NAN)):
        out, got = aggregate(REFERENCES[name][0], x, np.zeros(3))
        np.testing.assert_array_equal(got, 0.0)
        assert out.count == out.weight == 0


@pytest.mark.parametrize("n", (1, 2, 3, 6, 7))
def test_median_of_odd_and_even_numbers(n):
    x = messages(n, seed=n)
    _, got = aggregate(eqf.Median(), x, np.ones(n))
    np.testing.assert_allclose(got, np.median(x, axis=0), rtol=1e-6)


@pytest.mark.parametrize("n", (1, 4, 5, 10))
@pytest.mark.parametrize("trim", (0.1, 0.2, 0.3, 0.49))
def test_trimmed_mean(n, trim):
    x = messages(n, seed=n)
    _, got = aggregate(eqf.TrimmedMean(trim), x, np.arange(1, n + 1))
    expected = stats.trim_mean(x, trim, axis=0)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("trim", "n", "cut"),
    (
        (0.29, 100, 29),  # 0.29 * 100 is less than 29, in 32 and in 64 bits
        (0.07, 100, 7),
        (3 / 7, 7, 3),
        (0.4999999, 10, 4),  # something is left
        (0.499999999, 4, 1),  # half in 32 bits
    ),
)
def test_trimmed_mean_takes_away_as_many_as_it_says(trim, n, cut):
    x = np.exp(messages(n, seed=n) * 3)
    _, got = aggregate(eqf.TrimmedMean(trim), x, np.ones(n))
    expected = np.sort(x, axis=0)[cut : n - cut].mean(0)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_trim_out_of_its_domain_is_nan_under_vmap():
    def mean(trim):
        return aggregate(eqf.TrimmedMean(trim), messages(5), np.ones(5))[0].payload["b"]

    got = jax.jit(jax.vmap(mean))(np.array([0.2, -0.1, 0.5, NAN], np.float32))
    assert np.isfinite(got).tolist() == [True, False, False, False]


@pytest.mark.parametrize("inner", (eqf.WeightedMean(), eqf.Median()))
def test_clip(inner):
    x = messages(1)
    norm = np.linalg.norm(x)
    clip = lambda c: aggregate(eqf.Clip(inner, max_norm=c), x, [2.0])[1]  # noqa: E731
    # Above the norm nothing changes, to the bit.
    np.testing.assert_array_equal(clip(norm * 1.01), x[0])
    np.testing.assert_allclose(clip(norm / 3), x[0] / 3, rtol=1e-5)
    # Never beyond the bound, however large the message.
    for scale in (1.0, 1e10, 1e18, 1e25, 1e37):
        got = aggregate(eqf.Clip(inner, max_norm=0.5), scale * x, [2.0])[1]
        assert np.linalg.norm(got) <= 0.5 * (1 + 1e-6)
        np.testing.assert_allclose(got, 0.5 * x[0] / norm, rtol=1e-5)


def test_clip_of_nothing_is_nothing_and_differentiable():
    aggregator = eqf.Clip(eqf.WeightedMean(), max_norm=1.0)
    out, got = aggregate(aggregator, np.zeros((2, 4)), [1.0, 2.0])
    np.testing.assert_array_equal(got, 0.0)
    assert out.count == 2

    @jax.jit
    @jax.value_and_grad
    def total(scale):
        def encode(x):
            message = eqf.Message(scale * x, jnp.asarray(1.0))
            return aggregator.encode(message, None, key=jr.key(0))[0].payload.sum()

        return encode(jnp.zeros(2)) + encode(jnp.array([3.0, 4.0]))

    np.testing.assert_allclose(total(1.0)[0], 1.4, rtol=1e-6)
    np.testing.assert_allclose(total(0.1)[1], 7.0, rtol=1e-5)


@pytest.mark.parametrize("inner", (eqf.WeightedMean(), eqf.UniformMean(), eqf.Median()))
@pytest.mark.parametrize("bad", (NAN, np.inf))
def test_drop_nonfinite(inner, bad):
    x = messages(4)
    x[2, 1] = bad
    out, got = aggregate(eqf.DropNonfinite(inner), x, np.ones(4))
    _, expected = aggregate(inner, x[[0, 1, 3]], np.ones(3))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert out.count == 3


# In whole rounds: five honest clients with minima between -1 and 1, and a bad one.

CENTRES = (-1.0, -0.5, 0.0, 0.5, 1.0)
BATCHING = eqf.data.Steps(5, batch_size=2)


def one_round(make, centres, **kwargs):
    """A client whose minimum is `None` has no example, and is absent."""
    counts = tuple(0 if c is None else 2 for c in centres)
    centres = tuple(0.0 if c is None else c for c in centres)
    problem = testing.Quadratics((1.0,) * len(centres), centres, counts)
    algorithm = make(testing.quadratic_loss, optax.sgd(0.5), BATCHING, **kwargs)
    state = algorithm.init(testing.Point(0.3), num_clients=len(centres))
    cohort = eqf.data.cohort(problem.dataset(), BATCHING)
    new, metrics = algorithm.round(state, cohort, key=jr.key(0))
    return state, new, metrics


# Each mean and each way to add up once: neither knows of the other.
@pytest.mark.parametrize(
    ("make", "ordered"), ((eqf.WeightedMean, False), (eqf.UniformMean, True))
)
def test_many_half_precision_messages(make, ordered):
    # A sum in bfloat16 stops growing at 256 times a summand.
    problem = testing.Quadratics((1.0,) * 600, (1.0,) * 600, (3,) * 600)
    batching = eqf.data.Steps(1, batch_size=3)
    loss, optim = testing.quadratic_loss, optax.sgd(0.5)
    algorithm = eqf.FedAvg(loss, optim, batching, aggregator=make())
    model = testing.Point(jnp.asarray(0.0, jnp.bfloat16))
    state = algorithm.init(model, num_clients=600)
    cohort = eqf.data.cohort(problem.dataset(), batching)
    executor = eqf.Executor(block_size=4, ordered=ordered)
    state, _ = algorithm.round(state, cohort, key=jr.key(0), executor=executor)
    assert state.model.x.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(state.model.x), 0.5, rtol=1e-2)


@pytest.mark.parametrize("bad", (1e6, NAN))
@pytest.mark.parametrize(
    "aggregator, bias",
    ((eqf.Median(), 0.25), (eqf.TrimmedMean(0.2), 0.26)),
    ids=("median", "trimmed"),
)
def test_robust_rules_resist_a_poisoned_client(aggregator, bias, bad):
    _, honest, _ = one_round(eqf.FedAvg, (*CENTRES, None), aggregator=aggregator)
    _, state, _ = one_round(eqf.FedAvg, (*CENTRES, bad), aggregator=aggregator)
    assert abs(float(state.model.x) - float(honest.model.x)) <= bias
    if np.isfinite(bad):
        _, state, _ = one_round(eqf.FedAvg, (*CENTRES, bad))
        assert float(state.model.x) > 1e5


@pytest.mark.parametrize(
    "inner", (eqf.WeightedMean(), eqf.Median(), eqf.Clip(eqf.UniformMean(), 0.4))
)
def test_a_diverged_client_is_left_out(inner):
    aggregator = eqf.DropNonfinite(inner)
    _, honest, _ = one_round(eqf.FedAvg, (None, *CENTRES), aggregator=aggregator)
    _, state, metrics = one_round(eqf.FedAvg, (NAN, *CENTRES), aggregator=aggregator)
    np.testing.assert_allclose(state.model.x, honest.model.x, rtol=1e-5)
    assert metrics["nonfinite"] == 1
    assert np.isfinite(metrics["loss"])
    assert metrics["clients"] == 5
    assert metrics["nonfinite_model"] == 0


def test_a_diverged_client_that_is_let_in_ends_the_round():
    before, after, metrics = one_round(eqf.Scaffold, (NAN, *CENTRES))
    assert metrics["nonfinite"] == 1
    assert metrics["nonfinite_model"] == 1
    assert after.round == before.round + 1
    rest = lambda s: (s.params, s.server, s.aggregator, s.clients)  # noqa: E731
    assert eqx.tree_equal(rest(before), rest(after))


@pytest.mark.parametrize("make", (eqf.Scaffold, eqf.FedDyn))
def test_a_diverged_client_forgets_the_round(make):
    kwargs = {"alpha": 1.0} if make is eqf.FedDyn else {}
    aggregator = eqf.DropNonfinite(eqf.UniformMean())
    # Or it would never come back: its state stays what it was.
    before, after, _ = one_round(make, (NAN, *CENTRES), aggregator=aggregator, **kwargs)
    _, honest, _ = one_round(make, (None, *CENTRES), aggregator=aggregator, **kwargs)
    before, after, honest = (np.asarray(s.clients.x) for s in (before, after, honest))
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_allclose(after[1:], honest[1:], rtol=1e-5)
    assert (after[1:] != 0).all()


def test_nonzero_mean():
    # The second leaf of the second message is the only one that changed nothing.
    a = np.array([[1.0, 4.0, 1.0, 2.0], [1.0, 1.0, 1.0, 0.0], [9.0, 9.0, 9.0, 9.0]])
    a[0, 0] = 0.0
    out, got = aggregate(eqf.NonzeroMean(), a, [1.0, 3.0, 0.0])
    np.testing.assert_allclose(got, [1.0, (4 + 3) / 4, 1.0, 2.0], rtol=1e-6)
    assert float(out.count) == 2
    assert float(out.weight) == 4
    _, got = aggregate(eqf.NonzeroMean(), 0 * a, [1.0, 3.0, 0.0])
    assert (got == 0).all()
    _, got = aggregate(eqf.NonzeroMean(), np.full((2, 4), NAN), [0.0, 0.0])
    assert (got == 0).all()


def gaussians(n, seed=0):
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(n, 4, 4))
    covariances = roots @ roots.transpose(0, 2, 1) + 0.5 * np.eye(4)
    return rng.normal(size=(n, 4)).astype(np.float32), covariances.astype(np.float32)


def multiply(means, covariances, weights):
    """Means of the product; `w` and `b` are leaves, covariances dense or diagonal."""
    arrays = (np.asarray(x, np.float32) for x in (means, covariances, weights))
    out = _multiply(*arrays)
    return out, np.append(out.payload["b"], out.payload["w"])


@jax.jit
def _multiply(means, covariances, weights):
    aggregator = eqp.PosteriorProduct()

    def tree(x):
        # In the order of `ravel_pytree`: `b` comes before `w`.
        return {"b": x[0], "w": x[1:]}

    def encode(mean, covariance, weight):
        covariance = covariance if covariance.ndim == 2 else tree(covariance)
        message = eqf.Message(eqp.Gaussian(tree(mean), covariance), weight)
        return aggregator.encode(message, None, key=jr.key(0))[0]

    encoded = jax.vmap(encode)(means, covariances, weights)
    return aggregator.decode(encoded, None, key=jr.key(0))[0]


@pytest.mark.parametrize("diagonal", (False, True))
@pytest.mark.parametrize("fill", (0.0, NAN, -1.0))
def test_posterior_product(diagonal, fill):
    means, covariances = gaussians(7)
    if diagonal:
        covariances = np.einsum("kii->ki", covariances)
    precision, linear = np.zeros((4, 4)), np.zeros(4)
    for mean, covariance, weight in zip(means, covariances, PRESENT, strict=True):
        full = np.diag(covariance) if diagonal else covariance
        precision += weight * np.linalg.inv(full)
        linear += weight * np.linalg.solve(full, mean)
    expected = np.linalg.solve(precision, linear)
    means[PRESENT == 0] = fill
    covariances[PRESENT == 0] = fill
    out, got = multiply(means, covariances, PRESENT)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert float(out.count) == 5
    assert float(out.weight) == PRESENT.sum()
    # One that is no covariance counts as absent too.
    weights = np.where(PRESENT > 0, PRESENT, 1.0)
    out, got = multiply(means, covariances, weights)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert float(out.count) == 5
    _, got = multiply(means, covariances, 0 * PRESENT)
    assert (got == 0).all()


@pytest.mark.parametrize("diagonal", (False, True))
def test_posterior_product_promotes_nothing(diagonal):
    means, covariances = gaussians(7)
    if diagonal:
        covariances = np.einsum("kii->ki", covariances)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        multiply(means, covariances, PRESENT)


def test_posterior_product_takes_gaussians():
    algorithm = eqf.FedAvg(
        testing.noisy_loss,
        optax.sgd(0.1),
        eqf.data.Epochs(1, batch_size=4),
        aggregator=eqp.PosteriorProduct(),
    )
    dataset = testing.ragged_clients((3, 4))
    loader = eqf.data.Loader(dataset, eqf.data.AllClients(), algorithm.batching)
    state = algorithm.init(testing.Linear(), num_clients=2)
    with pytest.raises(TypeError, match="multiplies Gaussians, got a change"):
        algorithm.round(state, loader(0), key=jr.key(0))
