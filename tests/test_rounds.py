"""Several rounds in one call, and the block size found by trying."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing
from equifed._stepper import tune
from equifed._stepper.compile import (
    _BARRIERS,
    _known,
    _LARGE,
    _NO_YNN,
    compiler_options,
)
from equifed._stepper.stepper import Stepper

from .shared import drawn, line_loss


BATCHING = eqf.data.Epochs(1, batch_size=4)
DATASET = testing.ragged_clients((5, 0, 3, 8, 6))
KEY = jr.key(0)


def make(kind=eqf.FedAvg):
    # The keys of rounds are those of either method: one of them has noise.
    loss = testing.noisy_loss if kind is eqf.FedAvg else line_loss
    return kind(loss, optax.sgd(0.1), BATCHING)


def loader_of(dataset=DATASET, **kwargs):
    sampler = eqf.data.UniformSampler(3, seed=1)
    return eqf.data.Loader(dataset, sampler, BATCHING, **kwargs)


def after(num_rounds, rounds_per_call, *, kind=eqf.FedAvg, start=None, **kwargs):
    """The last state of `rounds`, and the metrics of each round."""
    algorithm, loader = make(kind), loader_of(**kwargs)
    if start is None:
        start = algorithm.init(testing.Linear(), num_clients=len(DATASET))
    state, losses = start, []
    for state, metrics in eqf.rounds(  # noqa: B007
        algorithm,
        start,
        loader,
        num_rounds=num_rounds,
        key=KEY,
        executor=eqf.Executor(ordered=True),
        rounds_per_call=rounds_per_call,
    ):
        losses.extend(np.atleast_1d(metrics["loss"]).tolist())
    return state, losses


def assert_close(x, y):
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# Of FedAvg clients keep nothing. Where the data lie is tried on one device and on two.
@pytest.mark.parametrize(
    "kind, resident, num_devices",
    [
        (eqf.Scaffold, True, 2),
        (eqf.Scaffold, False, 1),
        (eqf.FedAvg, True, 1),
        (eqf.FedAvg, False, 2),
    ],
)
def test_several_rounds_in_a_call(kind, resident, num_devices):
    mesh = None
    if num_devices > 1:
        mesh = jax.make_mesh((num_devices,), ("clients",))
    options = {"kind": kind, "resident": resident, "mesh": mesh}
    expected, losses = after(7, 1, **options)
    got, got_losses = after(7, 3, **options)  # The last call has one round.
    assert int(got.round) == 7
    assert_close(got, expected)
    np.testing.assert_allclose(got_losses, losses, rtol=1e-5)


def test_going_on_in_the_middle_of_a_call():
    whole, losses = after(7, 3)
    half, first = after(4, 3)
    resumed, rest = after(7, 3, start=half)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert first + rest == losses


def traced(rounds_per_call):
    """How often the loss has been traced after each call."""
    traces = []

    def loss(model, example, key):
        traces.append(1)
        return line_loss(model, example, key)

    algorithm = eqf.FedAvg(loss, optax.sgd(0.1), BATCHING)
    loader = eqf.data.Loader(DATASET, eqf.data.AllClients(), BATCHING)
    state = algorithm.init(testing.Linear(), num_clients=len(DATASET))
    how = {"num_rounds": 8, "key": KEY, "rounds_per_call": rounds_per_call}
    return [len(traces) for _ in eqf.rounds(algorithm, state, loader, **how)]


def test_one_trace_for_all_calls():
    counts = traced(rounds_per_call=3)
    assert len(counts) == 3
    assert len(set(counts)) == 1
    # Nor is a loop over rounds traced more often than one round.
    assert counts[0] == traced(rounds_per_call=1)[0]


def train(folder, rounds_per_call):
    solution = eqf.train(
        make(),
        testing.Linear(),
        loader_of(),
        num_rounds=9,
        key=KEY,
        evaluation={"all": DATASET},
        eval_every=3,
        checkpointer=eqf.Checkpointer(folder, every=4, keep=9),
        rounds_per_call=rounds_per_call,
    )
    return solution, sorted(path.name for path in folder.iterdir())


# Of two rounds and fewer, and as long as nothing is to be done between them.
@pytest.mark.parametrize("rounds_per_call", (2, 100))
def test_training_logs_evaluates_and_saves_as_it_would_one_by_one(
    rounds_per_call, tmp_path
):
    expected, expected_saved = train(tmp_path / "one", 1)
    got, saved = train(tmp_path / "several", rounds_per_call)
    assert saved == expected_saved
    assert [row["round"] for row in got.history] == list(range(1, 10))
    for row, reference in zip(got.history, expected.history, strict=True):
        assert row.keys() == reference.keys()
        assert row == pytest.approx(reference, rel=1e-5)
    assert_close(got.state, expected.state)


def test_the_block_size_found_by_trying(monkeypatch):
    seconds = {1: 3.0, 2: 2.0, 4: 2.5, 8: 1.0}
    tried = []

    def measured(*args, executor, **kwargs):
        tried.append(executor.block_size)
        return seconds[executor.block_size]

    monkeypatch.setattr(tune, "_seconds", measured)
    loader, algorithm = loader_of(), make()
    state = algorithm.init(testing.Linear(), num_clients=len(DATASET))
    executor = eqf.Executor(block_size="auto", ordered=True)
    best = tune.tuned(algorithm, state, loader(0), key=KEY, executor=executor)
    assert tried == [1, 2, 4]
    assert best == eqf.Executor(block_size=2, ordered=True)


def test_training_with_an_automatic_block_size():
    solution = eqf.train(
        make(),
        testing.Linear(),
        loader_of(),
        num_rounds=3,
        key=KEY,
        executor=eqf.Executor(block_size="auto", ordered=True),
    )
    assert_close(solution.state, after(3, 1)[0])


def test_refusals():
    algorithm, loader = make(), loader_of()
    state = algorithm.init(testing.Linear(), num_clients=len(DATASET))
    with pytest.raises(ValueError, match="`rounds_per_call` must be at least 1"):
        eqf.rounds(algorithm, state, loader, num_rounds=1, key=KEY, rounds_per_call=0)
    auto = eqf.Executor(block_size="auto")
    with pytest.raises(ValueError, match="'auto'` is measured by `rounds`"):
        algorithm.round(state, loader(0), key=KEY, executor=auto)


def options_for(model, *, several=False):
    def loss(model, example, key):
        return jnp.mean(model(example["image"]))

    dataset = eqf.data.digits()
    cohort = eqf.data.cohort(dataset, BATCHING)
    if not several:
        return compiler_options(loss, model, cohort, pytest.fail)
    # Of several models the whole round is traced.
    algorithm = eqf.IFCA(loss, optax.sgd(0.1), BATCHING, num_clusters=2)
    state = algorithm.init(model, num_clients=len(dataset), key=KEY)
    stepper = Stepper(algorithm, state, key=KEY, executor=eqf.Executor(), mesh=None)
    return compiler_options(loss, None, cohort, lambda: stepper._trace(cohort))


def conv_of(channels):
    return drawn(lambda key: eqf.nn.Conv2d(1, channels, 3, key=key), 0, 1)


class Image(eqx.Module):
    """A layer, given the image in floating point and with its channel."""

    layer: Callable

    def __call__(self, image):
        return self.layer(image[..., None].astype(jnp.float32))


def test_only_large_convolutions_are_compiled_otherwise():
    small, large = (
        Image(conv_of(channels))
        for channels in (2, math.ceil(_LARGE / (6 * 6 * 3 * 3)))
    )
    # A version of XLA that does not have the option is not asked for it.
    without = _NO_YNN if _known(_NO_YNN) else {}
    assert options_for(large) == without
    assert options_for(large, several=True) == without
    assert options_for(small) == options_for(small, several=True) == {}
    assert options_for(Image(eqx.nn.Lambda(lambda x: x.sum()))) == {}


class Deep(eqx.Module):
    """Layers that are computed again for their gradients, or not."""

    again: bool

    def __call__(self, image):
        x = jnp.tile(image.astype(jnp.float32), (8, 1))

        def layer(x):
            return x + jnp.tanh(jnp.tanh(x @ x.T)) @ x

        for _ in range(12):
            x = (jax.checkpoint(layer) if self.again else layer)(x)
        return x


def test_what_is_computed_again_takes_no_memory_before():
    options: Any = options_for(Deep(True))
    assert options == (_BARRIERS if _known(_BARRIERS) else {})
    assert options_for(Deep(False)) == {}

    def memory(again):
        grad = jax.jit(jax.grad(lambda x: jnp.sum(Deep(again)(x) ** 2)))
        compiled: Any = grad.lower(jnp.ones((8, 8))).compile(options)
        return compiled.memory_analysis().temp_size_in_bytes

    if options:
        assert memory(True) < 0.5 * memory(False)


def test_a_convolution_counts_for_the_whole_batch():
    # None of the four examples of a batch is large alone.
    channels = math.ceil(_LARGE / (4 * 6 * 6 * 3 * 3))
    assert options_for(Image(conv_of(channels))) == (_NO_YNN if _known(_NO_YNN) else {})
