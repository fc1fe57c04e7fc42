"""`Executor(ordered=True)`: the same bits on any number of devices, resident or not.

Nearly all of the time is compilation, once for each device and case, so a case is many
things at once. That each algorithm has the same bits on two devices is one of the laws
(`test_laws.py`); `benchmarks/bits.py` compares more of them, and blocks of more sizes.
"""

import functools
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
import equifed.posterior as eqp


pytestmark = pytest.mark.exact
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


class Convolved(eqx.Module):
    """One convolution, pooled, which forgets."""

    conv: eqf.nn.Conv2d
    pool: eqf.nn.MaxPool2d
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self, *, key):
        self.conv = eqf.nn.Conv2d(1, 4, 3, key=key)
        self.pool = eqf.nn.MaxPool2d(2)
        self.dropout = eqx.nn.Dropout(0.3)
        self.out = eqx.nn.Linear(36, 3, key=jr.fold_in(key, 1))

    def __call__(self, x, key):
        x = self.pool(jax.nn.relu(self.conv(x))).reshape(-1)
        return self.out(self.dropout(x, key=key))


class Recurrent(eqx.Module):
    """An LSTM over a short sequence."""

    lstm: eqf.nn.LSTM
    out: eqx.nn.Linear

    def __init__(self, *, key):
        self.lstm = eqf.nn.LSTM(4, 8, key=key)
        self.out = eqx.nn.Linear(8, 3, key=jr.fold_in(key, 1))

    def __call__(self, x, key):
        return self.out(self.lstm(x)[0][-1])


def noisy(model, example, key):
    x = example["x"]
    x = x + 0.01 * jr.normal(key, x.shape, x.dtype)
    return 0.5 * jnp.sum((model(x) - example["y"]) ** 2)


def plain(model, example, key):
    return 0.5 * jnp.sum((model(example["x"]) - example["y"]) ** 2)


def labelling(model, example, key):
    return eqf.cross_entropy(model(example["x"], key), example["y"])


def perceptron(*, key):
    return eqx.nn.MLP(5, 1, 8, 1, key=key)


def fed_pa(loss, optim, batching):
    return eqf.FedPA(
        loss,
        eqp.IASG(optim, burnin=1),
        batching,
        rho=0.1,
        start_round=1,
        server_optim=eqf.server_adam(0.01),
    )


def fed_nova(loss, optim, batching):
    return eqf.FedNova(loss, optax.sgd(0.01, momentum=0.9), batching)


def trimmed(loss, optim, batching):
    return eqf.FedAvg(loss, optim, batching, aggregator=eqf.TrimmedMean(0.2))


NUMBERS = clients((5,), labels=False)
# What is learned, from what, and how.
PROBLEMS = {
    "noise": (noisy, perceptron, NUMBERS, eqf.FedAvg),
    "Scaffold": (plain, perceptron, NUMBERS, eqf.Scaffold),
    "FedPA": (plain, perceptron, NUMBERS, fed_pa),
    "CNN": (labelling, Convolved, clients((8, 8, 1), labels=True), trimmed),
    "LSTM": (labelling, Recurrent, clients((6, 4), labels=True), fed_nova),
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
    executor = eqf.Executor(ordered=True, block_size=block_size)
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


@functools.cache
def on_no_mesh(name, block_size=1):
    return two_rounds(name, None, block_size=block_size)


def assert_alike(x, y):
    for a, b in zip(
        jtu.tree_leaves(eqx.filter(x, eqx.is_array)),
        jtu.tree_leaves(eqx.filter(y, eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "block_size", "count", "resident"),
    [
        ("noise", 1, 1, False),
        ("noise", 1, 2, True),
        ("noise", 2, 2, False),
        ("FedPA", 4, 4, False),
        ("CNN", 1, 2, False),
        ("LSTM", 1, 2, True),
    ],
)
def test_any_number_of_devices(name, block_size, count, resident):
    # As one program of all devices some of these end in other bits.
    got = two_rounds(name, count, resident=resident, block_size=block_size)
    assert_same_bits(got, on_no_mesh(name, block_size))


def test_blocks_of_another_size_are_another_program():
    assert_alike(on_no_mesh("noise", 2), on_no_mesh("noise"))


@pytest.mark.parametrize("rounds_per_call", (1, 2))
def test_in_a_loop_of_rounds(rounds_per_call):
    ends = []
    for count in (None, 2):
        algorithm, loader, state = begin("noise", count)
        executor = eqf.Executor(ordered=True)
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
    assert_same_bits(ends[0], on_no_mesh("noise")[0])


def test_a_round_that_is_rejected_and_one_within_jit():
    algorithm, loader, state = begin("noise", 2)
    executor = eqf.Executor(ordered=True)
    cohort = loader(0)

    def step(state):
        return algorithm.round(state, cohort, key=jr.key(5), executor=executor)

    expected, _ = step(state)
    new, _ = eqx.filter_jit(step)(state)  # One program, but the same numbers.
    assert_alike(new, expected)

    bias = lambda s: s.model.layers[0].bias  # noqa: E731
    broken = eqx.tree_at(bias, state, bias(state) * jnp.nan)
    after, metrics = step(broken)
    assert metrics["nonfinite_model"] == 1
    assert_same_bits(after.model, broken.model)
    assert after.round == 1


SCRIPT = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_x64", True)
from tests.test_bits import assert_same_bits, on_no_mesh, two_rounds
expected = on_no_mesh("Scaffold", 2)
assert expected[0].model.layers[0].weight.dtype == "float64"
got = two_rounds("Scaffold", 2, resident=False, block_size=2)
assert_same_bits(got, expected)
"""


def test_in_64_bits():
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
