"""`Executor(ordered=True)`: the same bits on any number of devices, resident or not.

`benchmarks/bits.py` compares more of them: every algorithm, and blocks of every size.
"""

import pathlib
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf


BATCHING = eqf.data.Epochs(2, batch_size=3)
SGD = optax.sgd(0.01)
SIZES = (5, 0, 1, 12, 3, 7, 9, 2)


def clients(shape, labels):
    """Ragged clients whose examples have a shape, and numbers or labels to learn."""
    out = {}
    for i, size in enumerate(SIZES):
        rng = np.random.default_rng(i)
        x = rng.normal(size=(size, *shape)).astype(np.float32)
        y = rng.integers(0, 3, size) if labels else x.sum(axis=1) + i
        out[f"c{i}"] = {"x": x, "y": y.astype(np.int32 if labels else np.float32)}
    return eqf.data.FederatedDataset.from_mapping(out)


class Dropped(eqx.Module):
    """A perceptron that forgets."""

    hidden: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self, *, key):
        self.hidden = eqx.nn.Linear(5, 16, key=key)
        self.dropout = eqx.nn.Dropout(0.3)
        self.out = eqx.nn.Linear(16, 1, key=jr.fold_in(key, 1))

    def __call__(self, x, key):
        return self.out(self.dropout(jnp.tanh(self.hidden(x)), key=key))


class Convolved(eqx.Module):
    """One convolution, pooled."""

    conv: eqf.nn.Conv2d
    pool: eqf.nn.MaxPool2d
    out: eqx.nn.Linear

    def __init__(self, *, key):
        self.conv = eqf.nn.Conv2d(1, 4, 3, key=key)
        self.pool = eqf.nn.MaxPool2d(2)
        self.out = eqx.nn.Linear(36, 3, key=jr.fold_in(key, 1))

    def __call__(self, x):
        return self.out(self.pool(jax.nn.relu(self.conv(x))).reshape(-1))


class Recurrent(eqx.Module):
    """An LSTM over a short sequence."""

    lstm: eqf.nn.LSTM
    out: eqx.nn.Linear

    def __init__(self, *, key):
        self.lstm = eqf.nn.LSTM(4, 8, key=key)
        self.out = eqx.nn.Linear(8, 3, key=jr.fold_in(key, 1))

    def __call__(self, x):
        return self.out(self.lstm(x)[0][-1])


def noisy(model, example, key):
    x = example["x"]
    x = x + 0.01 * jr.normal(key, x.shape, x.dtype)
    return 0.5 * jnp.sum((model(x) - example["y"]) ** 2)


def plain(model, example, key):
    return 0.5 * jnp.sum((model(example["x"]) - example["y"]) ** 2)


def dropping(model, example, key):
    return 0.5 * jnp.sum((model(example["x"], key) - example["y"]) ** 2)


def labelling(model, example, key):
    return eqf.cross_entropy(model(example["x"]), example["y"])


def perceptron(*, key):
    return eqx.nn.MLP(5, 1, 8, 1, key=key)


NUMBERS = clients((5,), labels=False)
# What is learned, from what, and how.
PROBLEMS = {
    "plain": (plain, perceptron, NUMBERS, eqf.FedAvg),
    "noise": (noisy, perceptron, NUMBERS, eqf.FedAvg),
    "Scaffold": (noisy, perceptron, NUMBERS, eqf.Scaffold),
    "FedNova": (
        noisy,
        perceptron,
        NUMBERS,
        lambda loss, optim, batching: eqf.FedNova(
            loss, optax.sgd(0.01, momentum=0.9), batching
        ),
    ),
    "FedAdam": (noisy, perceptron, NUMBERS, eqf.FedAdam),
    "FedPA": (
        noisy,
        perceptron,
        NUMBERS,
        lambda loss, optim, batching: eqf.FedPA(
            loss, eqf.IASG(optim, burnin=1), batching, rho=0.1, start_round=1
        ),
    ),
    "median": (
        noisy,
        perceptron,
        NUMBERS,
        lambda loss, optim, batching: eqf.FedAvg(
            loss, optim, batching, aggregator=eqf.TrimmedMean(0.2)
        ),
    ),
    "dropout": (dropping, Dropped, NUMBERS, eqf.FedAvg),
    "CNN": (labelling, Convolved, clients((8, 8, 1), labels=True), eqf.FedAvg),
    "LSTM": (labelling, Recurrent, clients((6, 4), labels=True), eqf.FedAvg),
}


def mesh_of(count):
    if count is None:
        return None
    return jax.make_mesh((count,), ("clients",), devices=jax.devices()[:count])


def begin(name, count, *, resident=True):
    loss, model, dataset, kind = PROBLEMS[name]
    algorithm = kind(loss, SGD, BATCHING)
    mesh, sampler = mesh_of(count), eqf.data.UniformSampler(6, seed=3)
    loader = eqf.data.Loader(dataset, sampler, BATCHING, mesh=mesh, resident=resident)
    state = algorithm.init(model(key=jr.key(2)), num_clients=dataset.num_clients)
    return algorithm, loader, state


def two_rounds(name, count, *, resident=True, block_size=1):
    algorithm, loader, state = begin(name, count, resident=resident)
    executor = eqf.Executor(mesh=loader.mesh, ordered=True, block_size=block_size)
    metrics = None
    for number in range(2):
        state, metrics = algorithm.round(
            state, loader(number), key=jr.key(5), executor=executor
        )
    return state, metrics


def bits(tree):
    leaves = jtu.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {jtu.keystr(path): np.asarray(x).tobytes() for path, x in leaves}


def assert_same_bits(x, y):
    x, y = bits(x), bits(y)
    assert x.keys() == y.keys()
    assert [name for name in x if x[name] != y[name]] == []


@pytest.mark.parametrize("name", PROBLEMS)
def test_two_devices_and_one(name):
    # In half of these cases one program of two devices ends in other bits.
    expected = two_rounds(name, None)
    assert_same_bits(two_rounds(name, 2, resident=name != "noise"), expected)


def test_any_number_of_devices_and_streamed():
    expected = two_rounds("plain", None)
    assert_same_bits(two_rounds("plain", 1), expected)
    assert_same_bits(two_rounds("plain", 4), expected)
    assert_same_bits(two_rounds("plain", None, resident=False), expected)


def test_blocks_of_one_size():
    expected = two_rounds("plain", None, block_size=3)
    assert_same_bits(two_rounds("plain", 2, block_size=3), expected)
    # Of another size they are another program.
    for a, b in zip(
        jtu.tree_leaves(eqx.filter(two_rounds("plain", None), eqx.is_array)),
        jtu.tree_leaves(eqx.filter(expected, eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rounds_per_call", (1, 2))
def test_in_a_loop_of_rounds(rounds_per_call):
    ends = []
    for count in (None, 2):
        algorithm, loader, state = begin("plain", count)
        executor = eqf.Executor(mesh=loader.mesh, ordered=True)
        *_, (state, metrics) = eqf.rounds(
            algorithm,
            state,
            loader,
            num_rounds=2,
            key=jr.key(5),
            executor=executor,
            rounds_per_call=rounds_per_call,
        )
        assert metrics["loss"].shape == ((2,) if rounds_per_call == 2 else ())
        ends.append(state)
    assert_same_bits(*ends)
    assert_same_bits(ends[0], two_rounds("plain", None)[0])


def test_a_round_that_is_rejected_and_one_within_jit():
    algorithm, loader, state = begin("plain", 2)
    executor = eqf.Executor(mesh=loader.mesh, ordered=True)
    cohort = loader(0)

    def step(state):
        return algorithm.round(state, cohort, key=jr.key(5), executor=executor)

    expected, _ = step(state)
    new, _ = eqx.filter_jit(step)(state)  # One program, but the same numbers.
    for a, b in zip(
        jtu.tree_leaves(eqx.filter(new, eqx.is_array)),
        jtu.tree_leaves(eqx.filter(expected, eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    bias = lambda s: s.model.layers[0].bias  # noqa: E731
    broken = eqx.tree_at(bias, state, bias(state) * jnp.nan)
    after, metrics = step(broken)
    assert metrics["nonfinite_model"] == 1
    assert_same_bits(after.model, broken.model)
    assert after.round == 1


SCRIPT = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
from tests.test_bits import assert_same_bits, two_rounds
expected = two_rounds("Scaffold", None)
assert expected[0].model.layers[0].weight.dtype == "float64"
assert_same_bits(two_rounds("Scaffold", 2), expected)
"""


def test_in_64_bits():
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
