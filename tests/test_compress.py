"""Compressors: what is decoded, in expectation and at the corners, and at what cost."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest
from scipy.linalg import hadamard

import equifed as eqf
import equifed.compress as eqc
from equifed import testing

from .shared import line_loss, settled


KEY = jr.key(0)
ROUND = np.int32(0)
X = np.random.default_rng(0).normal(size=13).astype(np.float32)
X[3] = 0


def once(compressor, x, key=KEY, round=ROUND):
    return _once(compressor, jnp.asarray(x, jnp.float32), key, round)


@eqx.filter_jit
def _once(compressor, x, key, round):
    decoded, _, sent = compressor.compress(
        x, compressor.init(x), key=key, round=jnp.asarray(round)
    )
    return decoded, sent


@eqx.filter_jit
def often(compressor, x, keys):
    """Decoded with many keys."""
    one = lambda key: _once(compressor, x, key, ROUND)[0]  # noqa: E731
    return jax.lax.map(one, keys, batch_size=1000)


NORM2 = float(X @ X)
D = X.size
STEP = (X.max() - X.min()) / 3
UNBIASED = {
    "binary": (eqc.UniformQuantizer(2), D / 4 * (3 * STEP) ** 2),
    "uniform": (eqc.UniformQuantizer(4), D / 4 * STEP**2),
    "bounds": (eqc.UniformQuantizer(3, bounds=(-4, 4)), D / 4 * 4**2),
    "qsgd": (eqc.QSGD(2), min(D / 4, D**0.5 / 2) * NORM2),
    "terngrad": (eqc.TernGrad(None), np.abs(X).max() * np.abs(X).sum()),
    "random": (eqc.RandomK(4 / 13), (13 / 4 - 1) * NORM2),
    "rotated": (eqc.Rotated(eqc.UniformQuantizer(4)), np.inf),
    "shared": (eqc.Rotated(eqc.QSGD(2), seed=5), np.inf),
}
KEYS = jr.split(jr.key(1), 20_000)


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_with_the_variance_of_the_paper(name):
    compressor, bound = UNBIASED[name]
    got = np.asarray(often(compressor, jnp.asarray(X), KEYS), np.float64)
    spread = got.std(0, ddof=1) / np.sqrt(len(got))
    # Of 13 numbers and 8 compressors the largest of normal errors is 3.9 at 1%.
    assert (np.abs(got.mean(0) - X) <= 4.5 * spread + 1e-6).all()
    variance = ((got - X) ** 2).sum(1).mean()
    assert 0 < variance <= 1.05 * bound


@pytest.mark.parametrize("compressor", (eqc.DRIVE(), eqc.EDEN(2)), ids=("1", "2"))
def test_drive_and_eden_are_nearly_unbiased_on_long_vectors(compressor):
    x = np.random.default_rng(0).normal(size=512).astype(np.float32)
    got = np.asarray(often(compressor, jnp.asarray(x), KEYS[:4000]), np.float64)
    error = ((got - x) ** 2).sum(1).mean() / (x @ x)
    # Of a normal vector: pi / 2 - 1 with one bit, 0.1175 / 0.8825 with two.
    rest = {eqc.DRIVE: 0.571, eqc.EDEN: 0.133}[type(compressor)]
    np.testing.assert_allclose(error, rest, rtol=0.05)
    bias = ((got.mean(0) - x) ** 2).sum() / (x @ x)
    assert bias < 2 * error / 4000 + 1e-4


ALL = {
    **{name: compressor for name, (compressor, _) in UNBIASED.items()},
    "clipped": eqc.TernGrad(),
    "sign": eqc.Sign(),
    "drive": eqc.DRIVE(),
    "eden": eqc.EDEN(3),
    "top": eqc.TopK(0.3),
    "whole": eqc.Whole(eqc.TopK(0.3)),
    "low rank": eqc.PowerSGD(1),
    "feedback": eqc.ErrorFeedback(eqc.Sign()),
    "ef21": eqc.EF21(eqc.TopK(0.3)),
}
TREE = {
    "zero": np.zeros((3, 5), np.float32),
    "constant": np.full((2, 3), -1.5, np.float32),
    "number": np.float32(2.5),
    "nothing": np.zeros((0, 2), np.float32),
    "half": jnp.asarray([1.0, -2.0, 0.5], jnp.bfloat16),
    "bad": np.array([1.0, np.nan, 2.0, np.inf], np.float32),
}


@pytest.mark.parametrize("name", ALL)
def test_corners(name):
    compressor = ALL[name]

    @eqx.filter_jit
    def both(tree):
        run = lambda x: compressor.compress(  # noqa: E731
            x, compressor.init(x), key=KEY, round=jnp.asarray(ROUND)
        )
        good = {k: x for k, x in tree.items() if k != "bad"}
        return run(good), run({"bad": tree["bad"]})

    tree = jtu.tree_map(jnp.asarray, TREE)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        (decoded, memory, sent), (bad, _, _) = both(tree)
    assert all(np.isfinite(x).all() for x in jtu.tree_leaves((decoded, memory)))
    assert jtu.tree_map(jnp.shape, decoded) == {
        k: np.shape(x) for k, x in TREE.items() if k != "bad"
    }
    np.testing.assert_array_equal(decoded["zero"], 0) if name != "bounds" else None
    assert int(sent.bits) > 0
    assert 0 <= float(sent.entropy) <= float(sent.arithmetic)
    # What is not finite is not made finite.
    assert not np.isfinite(bad["bad"]).all()


@pytest.mark.parametrize("levels", (2, 3, 16))
def test_a_constant_and_the_ends_arrive_as_they_are(levels):
    got, _ = once(eqc.UniformQuantizer(levels), np.full(5, 0.1))
    np.testing.assert_array_equal(got, np.full(5, 0.1, np.float32))
    got, _ = once(eqc.UniformQuantizer(levels), [-1.0, 2.0])
    np.testing.assert_array_equal(got, [-1.0, 2.0])


# What is sent for a vector of d numbers, by hand.
BITS = {
    "binary": (eqc.UniformQuantizer(2), 513, 513 + 64),
    "ternary": (eqc.UniformQuantizer(3), 3, 5 + 64),
    "known range": (eqc.UniformQuantizer(4, bounds=(0, 1)), 3, 6),
    "padded": (eqc.Rotated(eqc.UniformQuantizer(4)), 513, 2 * 1024 + 64),
    "qsgd": (eqc.QSGD(1), 3, 5 + 32),
    "terngrad": (eqc.TernGrad(), 3, 5 + 32),
    "sign": (eqc.Sign(), 3, 3 + 32),
    "drive": (eqc.DRIVE(), 3, 4 + 32),
    "eden": (eqc.EDEN(3), 5, 3 * 8 + 32),
    "top": (eqc.TopK(0.01), 1000, 10 * (32 + 10)),
    "top by a map": (eqc.TopK(0.25), 1000, 250 * 32 + 1000),
    "all": (eqc.TopK(1.0), 10, 320),
    "random": (eqc.RandomK(0.01), 1000, 10 * 32),
}


@pytest.mark.parametrize("name", BITS)
def test_bits_by_hand(name):
    compressor, size, bits = BITS[name]
    x = np.random.default_rng(0).normal(size=size).astype(np.float32)
    # They hang on shapes alone: nothing is left to compile.
    sent = jax.jit(lambda: once(compressor, x)[1].bits)()
    assert int(sent) == bits


def test_bits_of_a_low_rank_matrix():
    x = {"matrix": jnp.ones((20, 30)), "vector": jnp.ones(7)}
    compressor = eqc.PowerSGD(2)
    sent = jax.jit(
        lambda: compressor.compress(
            x, compressor.init(x), key=KEY, round=jnp.asarray(ROUND)
        )[2]
    )()
    assert int(sent.bits) == (2 * (20 + 30) + 7) * 32


def test_the_numbers_of_fedjax():
    # One that counts fractions of bits, and of its symbols the table too.
    counts = jnp.ones(5, jnp.int32)
    np.testing.assert_allclose(eqc.arithmetic_bits(counts) + 64, 89.82311, rtol=1e-6)
    np.testing.assert_allclose(3 * np.log2(3) + 64, 68.75489, rtol=1e-6)
    assert eqc.packed_bits(3, 3) + 64 == 69
    # Three numbers that are three symbols.
    _, sent = once(eqc.UniformQuantizer(3), [1.0, 2.0, 3.0])
    np.testing.assert_allclose(sent.arithmetic, 78.08298, rtol=1e-6)
    # DRIVE's scale, on what is rotated already.
    got, _ = once(eqc.Sign(rotated=True), [1.0, -2.0, 3.0])
    np.testing.assert_allclose(got, [7 / 3, -7 / 3, 7 / 3], rtol=1e-6)


def test_entropy_is_that_of_numpy():
    x = np.random.default_rng(0).normal(size=200).astype(np.float32)
    got, sent = once(eqc.UniformQuantizer(5), x)
    _, counts = np.unique(np.asarray(got), return_counts=True)
    share = counts / 200
    np.testing.assert_allclose(
        sent.entropy, 64 - 200 * (share * np.log2(share)).sum(), rtol=1e-5
    )


@pytest.mark.parametrize("size", (1, 2, 64))
def test_walsh_hadamard(size):
    got = jax.jit(jax.vmap(eqc.walsh_hadamard))(jnp.eye(size))
    np.testing.assert_array_equal(got, hadamard(size))


def test_a_rotation_keeps_lengths_and_goes_back():
    y = jax.jit(eqc.rotate)(jnp.asarray(X), KEY)
    assert y.shape == (16,)
    np.testing.assert_allclose(y @ y, X @ X, rtol=1e-5)
    back = jax.jit(eqc.rotate_back, static_argnames="size")(y, KEY, size=13)
    np.testing.assert_allclose(back, X, atol=1e-6)


def test_a_shared_rotation_is_that_of_the_round():
    make = lambda seed: eqc.Rotated(eqc.Sign(), seed=seed)  # noqa: E731
    keys = jr.split(KEY)
    one, other = (once(make(3), X, key=k)[0] for k in keys)
    np.testing.assert_array_equal(one, other)
    assert not np.allclose(once(make(3), X, round=np.int32(1))[0], one)
    assert not np.allclose(once(make(4), X)[0], one)
    one, other = (once(make(None), X, key=k)[0] for k in keys)
    assert not np.allclose(one, other)


def test_the_levels_of_lloyd_and_max():
    quantizer: Any = eqc.EDEN(2).compressor.compressor
    levels = quantizer.levels
    np.testing.assert_allclose(levels, [-1.510, -0.4528, 0.4528, 1.510], atol=1e-3)
    np.testing.assert_allclose(
        once(eqc.EDEN(1), X)[0], once(eqc.DRIVE(), X)[0], rtol=1e-5
    )


def test_top_and_random():
    x = [1.0, -5.0, 2.0, 4.0]
    np.testing.assert_array_equal(once(eqc.TopK(0.5), x)[0], [0, -5, 0, 4])
    got = np.asarray(once(eqc.RandomK(0.5, scaled=False), x)[0])
    assert np.count_nonzero(got) == 2
    assert set(got[got != 0]) < set(x)
    tree = {"a": jnp.asarray([1.0, 9.0]), "b": jnp.asarray([8.0, 2.0])}
    whole = eqc.Whole(eqc.TopK(0.5))
    got = jax.jit(lambda: whole.compress(tree, None, key=KEY, round=jnp.asarray(0))[0])
    np.testing.assert_array_equal(got()["a"], [0, 9])
    np.testing.assert_array_equal(got()["b"], [8, 0])


def repeated(compressor, xs):
    """What is decoded of one message after another, and the last memory."""

    @eqx.filter_jit
    def run(xs):
        def step(carry, x):
            memory, i = carry
            out, memory, _ = compressor.compress(
                x, memory, key=jr.fold_in(KEY, i), round=i
            )
            return (memory, i + 1), out

        start = (compressor.init(xs[0]), jnp.asarray(0, jnp.int32))
        (memory, _), out = jax.lax.scan(step, start, xs)
        return out, memory

    return run(jnp.asarray(xs))


def test_feedback_and_ef21_in_numpy():
    xs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)

    def top(x):
        out = np.zeros_like(x)
        out[np.abs(x).argmax()] = x[np.abs(x).argmax()]
        return out

    error, known, sent, read = np.zeros(4), np.zeros(4), [], []
    for x in xs:
        sent.append(top(x + error))
        error = x + error - sent[-1]
        known = known + top(x - known)
        read.append(known)
    got, _ = repeated(eqc.ErrorFeedback(eqc.TopK(0.25)), xs)
    np.testing.assert_allclose(got, sent, rtol=1e-5)
    got, _ = repeated(eqc.EF21(eqc.TopK(0.25)), xs)
    np.testing.assert_allclose(got, read, rtol=1e-5)


def test_power_iteration_finds_the_best_of_its_rank():
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    v, _ = np.linalg.qr(rng.normal(size=(12, 8)))
    x = (u * [5, 4, 1, 0.5, 0.1, 0, 0, 0] @ v.T).astype(np.float32)
    best = u[:, :2] * [5, 4] @ v[:, :2].T
    got, _ = repeated(eqc.PowerSGD(2), np.broadcast_to(x, (30, 8, 12)).copy())
    np.testing.assert_allclose(got[-1], best, atol=1e-3)
    # One that nothing was learnt of, and is learnt of later.
    got, _ = repeated(eqc.PowerSGD(2), np.stack([0 * x] * 2 + [x] * 30))
    np.testing.assert_allclose(got[-1], best, atol=1e-3)


BATCHING = eqf.data.Epochs(1, batch_size=4)
DATASET = testing.ragged_clients((5, 3, 0, 8))


def algorithm(compressor, aggregator=None, loss=line_loss):
    made = eqf.FedAvg(loss, optax.sgd(0.1), BATCHING)
    if aggregator is not None:
        made = eqx.tree_at(lambda a: a.aggregator, made, aggregator)
    if compressor is None:
        return made
    client = eqc.CompressedClient(made.client, compressor)
    return eqx.tree_at(lambda a: a.client, made, client)


def test_rounds_count_what_compressors_send():
    loader = eqf.data.Loader(DATASET, eqf.data.AllClients(), BATCHING)

    def first(made):
        (row,) = eqf.train(
            made, testing.Linear(), loader, num_rounds=1, key=KEY
        ).history
        return row

    # A range and three levels for the weights and for the bias; the weight.
    quantizer = eqc.UniformQuantizer(3)
    one = (64 + 5) + (64 + 2) + 32
    row = first(algorithm(None, eqc.Compress(eqf.WeightedMean(), quantizer)))
    assert row["bits_up"] == 3 * one
    assert 3 * 160 < row["bits_up_entropy"] < row["bits_up_arithmetic"]
    row = first(algorithm(eqc.ErrorFeedback(quantizer)))
    assert row["bits_up"] == 3 * one


def test_a_memory_is_of_messages_that_count():
    made = algorithm(eqc.ErrorFeedback(eqc.TopK(0.4)))
    state = made.init(testing.Linear(), num_clients=4)
    cohort = eqf.data.cohort(DATASET, BATCHING)
    after, _ = made.round(state, cohort, key=KEY)
    error = np.asarray(after.clients[1].own.weight)
    assert (error[[0, 1, 3]] != 0).any(1).all()
    np.testing.assert_array_equal(error[2], 0)
    # A round that is rejected leaves all as it was.
    bad = eqx.tree_at(lambda s: s.params.bias, after, jnp.asarray(jnp.nan))
    again, metrics = made.round(bad, cohort, key=KEY)
    assert metrics["nonfinite"] > 0
    assert eqx.tree_equal(again.clients, after.clients)


def test_with_feedback_a_biased_compressor_arrives():
    def loss(model, example, key):
        return 0.5 * jnp.sum(jnp.square(model - example["target"]))

    # Each client pulls strongly, and the pulls cancel but for the last number.
    targets = np.asarray([[10, 0, 1.0], [-10, 0, 1.0]], np.float32)
    dataset = eqf.data.FederatedDataset({"target": targets}, np.arange(3), ["a", "b"])
    batching = eqf.data.Epochs(1, batch_size=1)
    cohort = eqf.data.cohort(dataset, batching)
    found = {}
    for name, compressor in (
        ("plain", eqc.TopK(0.34)),
        ("feedback", eqc.ErrorFeedback(eqc.TopK(0.34))),
        ("ef21", eqc.EF21(eqc.TopK(0.34))),
    ):
        made = eqf.FedAvg(loss, optax.sgd(0.05), batching)
        client = eqc.CompressedClient(made.client, compressor)
        made = eqx.tree_at(lambda a: a.client, made, client)
        state = made.init(jnp.zeros(3), num_clients=2)
        found[name] = np.asarray(settled(made, state, cohort, 400).model)
    np.testing.assert_array_equal(found["plain"], 0)
    np.testing.assert_allclose(found["feedback"], [0, 0, 1], atol=0.6)
    assert found["feedback"][2] > 0.5
    np.testing.assert_allclose(found["ef21"], [0, 0, 1], atol=0.01)


def test_a_count_sketch_finds_the_heavy_hitters():
    sketch = eqc.CountSketch(7, 64, num_kept=5, seed=1)
    rng = np.random.default_rng(0)
    xs = (0.01 * rng.normal(size=(3, 1000))).astype(np.float32)
    heavy = rng.choice(1000, 5, replace=False)
    xs[:, heavy] += 5 * np.sign(rng.normal(size=5))

    @jax.jit
    def run(xs):
        payload = {"a": jnp.zeros(400), "b": jnp.zeros((20, 30))}
        state = sketch.init(payload)

        def encode(x):
            tree = {"a": x[:400], "b": x[400:].reshape(20, 30)}
            message = eqf.Message(tree, jnp.asarray(1.0))
            return sketch.encode(message, state, key=KEY)

        encoded, metrics = jax.vmap(encode)(xs)
        encoded = jtu.tree_map(lambda x: x.sum(0), encoded)
        aggregate, state, _ = sketch.decode(encoded, state, key=KEY)
        tree = aggregate.payload
        return jnp.concatenate([tree["a"], tree["b"].reshape(-1)]), metrics, state

    got, metrics, state = run(xs)
    assert set(np.flatnonzero(got)) == set(heavy)
    np.testing.assert_allclose(got[heavy], xs.mean(0)[heavy], atol=0.1)
    assert int(metrics["bits_up"][0]) == 7 * 64 * 32 + 32
    # What was taken is gone from the errors; the rest is there.
    assert np.abs(np.asarray(state[2])).max() < 0.5


@pytest.mark.parametrize("power", (-80, 80, 120))
@pytest.mark.parametrize("name", ("qsgd", "terngrad", "clipped", "drive", "eden"))
def test_numbers_whose_squares_are_beyond_single_precision(name, power):
    compressor = {"qsgd": eqc.QSGD(2), **ALL}[name]
    wanted, _ = once(compressor, X)
    got, _ = once(compressor, X * np.float32(2.0**power))
    np.testing.assert_array_equal(got, np.asarray(wanted) * np.float32(2.0**power))


HALF = jnp.asarray([[1.0, -2.0, 0.5, 3.0]] * 6, jnp.bfloat16)
OF_HALF = {
    "all": (eqc.TopK(1.0), 24 * 16),
    "top": (eqc.TopK(0.25), 6 * 16 + 24),
    "random": (eqc.RandomK(0.25), 6 * 16),
    "whole": (eqc.Whole(eqc.RandomK(0.25)), 6 * 16),
    # Thin, but of numbers of 32 bits: as it is.
    "low rank": (eqc.PowerSGD(2), 24 * 16),
    "rank 1": (eqc.PowerSGD(1), 10 * 32),
    "norm": (eqc.QSGD(1), 39 + 32),
}


@pytest.mark.parametrize("name", OF_HALF)
def test_numbers_of_16_bits_are_sent_as_such(name):
    compressor, bits = OF_HALF[name]
    decoded, sent = _once(compressor, HALF, KEY, ROUND)
    assert int(sent.bits) == bits
    assert decoded.dtype == jnp.float32


def test_what_16_bits_lose_is_in_the_memory():
    compressor = eqc.ErrorFeedback(eqc.UniformQuantizer(4))
    x = jnp.asarray([1.0, 0.37, -0.11], jnp.bfloat16)
    decoded, memory, _ = compressor.compress(
        x, compressor.init(x), key=KEY, round=jnp.asarray(ROUND)
    )
    assert decoded.dtype == jnp.bfloat16
    lost = np.asarray(x, np.float32) - np.asarray(decoded, np.float32)
    np.testing.assert_array_equal(memory.own, lost)
