"""Compiled programs go with what they were compiled for, and not before."""

import gc
import types
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import _compiled, testing
from equifed._compiled import compiled, FlatTree

from .shared import line_loss


BATCHING = eqf.data.Epochs(1, batch_size=4)
DATASET = testing.ragged_clients((4, 4))
LOADER = eqf.data.Loader(DATASET, eqf.data.AllClients(), BATCHING)
KEY = jr.key(0)


def train(loss, **kwargs):
    algorithm = eqf.FedAvg(loss, optax.sgd(0.1), BATCHING)
    eqf.train(algorithm, testing.Linear(), LOADER, num_rounds=1, key=KEY, **kwargs)


def one_round(loss):
    algorithm = eqf.Scaffold(loss, optax.sgd(0.1), BATCHING)
    state = algorithm.init(testing.Linear(), num_clients=2)
    algorithm.round(state, LOADER(0), key=KEY)


USES = {
    "train": train,
    "train in one call": lambda loss: train(loss, rounds_per_call=2),
    "round": one_round,
    "evaluate": lambda loss: eqf.evaluate(testing.Linear(), DATASET, loss),
    "evaluate per client": lambda loss: eqf.evaluate(
        testing.Linear(), DATASET, loss, per_client=True
    ),
}


def used(use):
    """References to a loss of its own, and to the programs that `use` compiles for
    it."""
    before = set(_compiled._PROGRAMS)

    def loss(model, example, key):
        return line_loss(model, example, key)

    USES[use](loss)
    programs = [x for key, x in _compiled._PROGRAMS.items() if key not in before]
    assert programs
    return [weakref.ref(x) for x in (loss, *programs)]


def test_a_loss_goes_and_its_programs_with_it():
    # To look for garbage takes a second where many tests have run before.
    gc.collect()
    references = {use: used(use) for use in USES}
    gc.collect()
    alive = {use: [x() for x in of_use] for use, of_use in references.items()}
    assert alive == {use: [None] * len(x) for use, x in references.items()}


def scaled(fixed, x):
    function, number = fixed
    TRACES.append(1)
    return function(x) * number


TRACES = []


def run(function, number, x=1.0):
    flat = FlatTree((function, number))
    return float(compiled(scaled, flat)(flat.arrays, jnp.asarray(x)))


def traces(use):
    before = len(TRACES)
    use()
    return len(TRACES) - before


def test_programs_are_found_again():
    function = lambda x: x + 1  # noqa: E731
    assert traces(lambda: run(function, jnp.asarray(2.0))) == 1
    assert traces(lambda: run(function, jnp.asarray(3.0))) == 0
    assert run(function, jnp.asarray(3.0), 2.0) == 9
    # What is compared by its value, is so with its type.
    assert traces(lambda: run(function, 1)) == 1
    assert traces(lambda: run(function, True)) == 1  # noqa: FBT003
    assert traces(lambda: run(function, 1)) == 0
    other = types.FunctionType(function.__code__, {})
    assert traces(lambda: run(other, 1)) == 1


class Holder:
    def loss(self, x):
        return x


def test_what_a_program_may_be_compiled_for():
    holder = Holder()
    assert traces(lambda: run(holder.loss, 1)) == 1
    assert traces(lambda: run(holder.loss, 1)) == 0
    reference = weakref.ref(holder)
    del holder
    gc.collect()
    assert reference() is None
    # JAX's own functions live on, and are no reason to compile again.
    assert traces(lambda: run(jax.nn.relu, 1)) == 1
    assert traces(lambda: run(jax.nn.relu, 1)) == 0
    with pytest.raises(TypeError, match="cannot be compiled for: it is neither an"):
        run(jax.nn.relu, bytearray(b"abc"))


def test_no_more_programs_than_so_many(monkeypatch):
    monkeypatch.setattr(_compiled, "_MOST", 3)
    for number in range(5):
        run(jax.nn.relu, number)
    assert len(_compiled._PROGRAMS) == 3
    assert traces(lambda: run(jax.nn.relu, number)) == 0
    assert traces(lambda: run(jax.nn.relu, 0)) == 1


def test_a_function_made_anew_in_a_loop():
    def loop(count, change=0):
        for i in range(count):
            run(lambda x: x, change * i)

    with pytest.warns(UserWarning, match="`<lambda>` .*, line .* anew 3 times") as got:
        loop(5)
    (warning,) = got
    assert warning.filename == __file__
    line = loop.__code__.co_firstlineno + 2
    assert f"({__file__}, line {line})" in str(warning.message)
    assert "Define it once, outside of the loop" in str(warning.message)
    # There is nothing to say where it is one function, or something else differs.
    same = lambda x: x  # noqa: E731
    for i in range(5):
        run(same, jnp.asarray(i))
    loop(5, change=10)


def test_functions_that_look_alike_are_not_one_made_anew():
    one, two, three = (
        lambda x: x + 0,
        lambda x: x + 0,
        lambda x: x + 0,
    )
    for function in (one, two, three):
        run(function, 1)


def test_under_transformations():
    # A round may be called while something else is traced, as often as one likes.
    algorithm = eqf.FedAvg(testing.quadratic_loss, optax.sgd(0.1), BATCHING)
    problem = testing.Quadratics((1.0, 3.0), (1.0, 2.0), (4, 4))
    cohort = eqf.data.cohort(problem.dataset(), BATCHING)
    executor = eqf.Executor(differentiable=True)

    def after(x):
        state = algorithm.init(testing.Point(x), num_clients=2)
        new, _ = algorithm.round(state, cohort, key=KEY, executor=executor)
        return new.model.x

    plain = [float(after(jnp.asarray(x))) for x in (0.0, 1.0)]
    xs = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(jax.vmap(after)(xs), plain, rtol=1e-6)
    np.testing.assert_allclose(eqx.filter_jit(jax.vmap(after))(xs), plain, rtol=1e-6)
    slope = (plain[1] - plain[0]) / 1.0
    np.testing.assert_allclose(jax.grad(after)(0.5), slope, rtol=1e-5)
