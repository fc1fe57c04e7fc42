"""Laws that hold for every algorithm, whatever it computes.

They say that how a round is run does not change what it computes. Each is a function
of `make`, which builds the algorithm for a loss and a batching:

```python
import equifed as eqf

def make(loss, batching):
    return MyAlgorithm(loss, optax.sgd(0.1), batching)

eqf.testing.check_laws(make)
```
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from .._algorithm import State
from .._check import checked
from .._cohort import Cohort, NO_CLIENT
from .._executor import Executor
from .._rounds import rounds
from ..data import Loader, UniformSampler
from ._problems import noisy_loss
from ._setup import assert_same, Make, setup, SIZES, two_rounds


def permutation(make: Make) -> None:
    """The order of the slots does not matter."""
    algorithm, loader, state = setup(make)

    def permute(cohort: Cohort) -> Cohort:
        order = np.random.default_rng(0).permutation(cohort.num_slots)
        where = lambda c: (c.start, c.stop, c.first, c.num_examples, c.index)  # noqa: E731
        return eqx.tree_at(where, cohort, [x[:, order] for x in where(cohort)])

    expected = two_rounds(algorithm, loader, state, Executor())
    assert_same(two_rounds(algorithm, loader, state, Executor(), permute), expected)


def empty_slots(make: Make) -> None:
    """An empty slot is as if absent."""
    algorithm, loader, state = setup(make)

    def pad(cohort: Cohort) -> Cohort:
        where = lambda c: (c.start, c.stop, c.first, c.num_examples)  # noqa: E731
        padded = [jnp.pad(x, ((0, 0), (0, 3))) for x in where(cohort)]
        cohort = eqx.tree_at(where, cohort, padded)
        index = jnp.pad(cohort.index, ((0, 0), (0, 3)), constant_values=NO_CLIENT)
        return eqx.tree_at(lambda c: c.index, cohort, index)

    expected = two_rounds(algorithm, loader, state, Executor())
    for size in (1, 4):
        executor = Executor(block_size=size)
        assert_same(two_rounds(algorithm, loader, state, executor, pad), expected)


def block_size(make: Make) -> None:
    """How many clients run side by side does not matter."""
    algorithm, loader, state = setup(make)
    expected = two_rounds(algorithm, loader, state, Executor())
    for size in (2, 4, 16):
        executor = Executor(block_size=size)
        assert_same(two_rounds(algorithm, loader, state, executor), expected)


def rounds_per_call(make: Make) -> None:
    """Nor how many rounds are run in one call."""
    algorithm, loader, state = setup(make)

    def run(size: int) -> State:
        *_, (last, _) = rounds(
            algorithm, state, loader, num_rounds=3, key=jr.key(1), rounds_per_call=size
        )
        return last

    assert_same(run(2), run(1))


def ordered(make: Make) -> None:
    """Nor does summing in order."""
    algorithm, loader, state = setup(make)
    expected = two_rounds(algorithm, loader, state, Executor())
    executor = Executor(ordered=True)
    assert_same(two_rounds(algorithm, loader, state, executor), expected)


def differentiable(make: Make) -> None:
    """Nor does making the round differentiable; and then it is."""
    algorithm, loader, state = setup(make)
    expected = two_rounds(algorithm, loader, state, Executor())
    executor = Executor(differentiable=True)
    assert_same(two_rounds(algorithm, loader, state, executor), expected)

    params, static = eqx.partition(state, eqx.is_inexact_array)

    def loss_after(scale):
        scaled = jtu.tree_map(lambda x: x * scale, params.model)
        start = eqx.tree_at(lambda s: s.model, params, scaled)
        _, metrics = two_rounds(algorithm, loader, eqx.combine(start, static), executor)
        return metrics["loss"]

    one, step = jnp.asarray(1.0), 1e-2
    slope = jax.grad(loss_after)(one)
    finite = (loss_after(one + step) - loss_after(one - step)) / (2 * step)
    np.testing.assert_allclose(slope, finite, rtol=2e-2, atol=2e-3)


def streamed(make: Make) -> None:
    """Nor does whether the examples are resident."""
    algorithm, loader, state = setup(make)
    expected = two_rounds(algorithm, loader, state, Executor())
    stream = Loader(loader.dataset, loader.sampler, loader.batching, resident=False)
    assert_same(two_rounds(algorithm, stream, state, Executor()), expected)


def devices(make: Make) -> None:
    """Nor does the number of devices; ordered sums have the same bits on all.

    If only the bits differ: XLA turns a division by a scalar into a product with its
    inverse, but not on several devices. Write `x * (1 / n)` yourself.
    """
    algorithm, loader, state = setup(make)
    expected = two_rounds(algorithm, loader, state, Executor())
    bits = two_rounds(algorithm, loader, state, Executor(ordered=True))
    for count in (1, 2, 4):
        if count > jax.device_count():
            continue
        mesh = jax.make_mesh((count,), ("clients",), devices=jax.devices()[:count])
        split = Loader(loader.dataset, loader.sampler, loader.batching, mesh=mesh)
        executor = Executor(mesh=mesh)
        assert_same(two_rounds(algorithm, split, state, executor), expected)
        executor = Executor(mesh=mesh, ordered=True)
        assert_same(two_rounds(algorithm, split, state, executor), bits, 0.0)


def one_trace(make: Make) -> None:
    """Many rounds, and an algorithm built anew, are traced once."""
    algorithm, loader, state = setup(make)
    traces = 0

    def counting_loss(model, example, key):
        nonlocal traces
        traces += 1
        return noisy_loss(model, example, key)

    algorithm = make(counting_loss, algorithm.batching)
    state, _ = algorithm.round(state, loader(0), key=jr.key(1))
    after_first = traces
    for number in range(1, 4):
        algorithm = make(counting_loss, algorithm.batching)
        state, _ = algorithm.round(state, loader(number), key=jr.key(number))
    assert traces == after_first, "The round was traced more than once."


def resume(make: Make) -> None:
    """A run that is stopped and taken up again ends in the same bits."""
    algorithm, loader, state = setup(make)
    loader = Loader(
        loader.dataset, UniformSampler(3, seed=2), algorithm.batching, prefetch=0
    )

    def run(state: State, num_rounds: int) -> State:
        key = jr.key(1)
        for state, _ in rounds(  # noqa: B007, B020
            algorithm, state, loader, num_rounds=num_rounds, key=key
        ):
            pass
        return state

    straight = run(state, 5)
    middle = jtu.tree_map(
        lambda x: jnp.asarray(np.asarray(x)) if eqx.is_array(x) else x, run(state, 2)
    )
    assert_same(run(middle, 5), straight, 0.0)


def sweep(make: Make) -> None:
    """Many experiments under `eqx.filter_vmap` are those experiments one by one."""
    algorithm, loader, state = setup(make)
    cohort = loader(0)
    keys = jr.split(jr.key(3), 3)

    def once(key):
        return algorithm.round(state, cohort, key=key)

    together = eqx.filter_vmap(once)(keys)
    for i in range(3):
        one = jtu.tree_map(lambda x: x[i] if eqx.is_array(x) else x, together)  # noqa: B023
        assert_same(one, once(keys[i]))


def metrics_are_means(make: Make) -> None:
    """What is reported is the mean over all visits of examples."""

    def loss(model, example, key):
        value, _ = noisy_loss(model, example, key)
        return value, {"y": example["y"]}

    algorithm, loader, state = setup(make)
    algorithm = make(loss, algorithm.batching)
    _, metrics = algorithm.round(state, loader(0), key=jr.key(1))
    # Two epochs visit every example twice, so that this mean is known.
    mean = np.mean(np.asarray(loader.dataset.columns["y"]))
    np.testing.assert_allclose(metrics["y"], mean, rtol=1e-5, atol=1e-5)
    assert set(metrics) >= {"loss", "y", "clients", "nonfinite", "nonfinite_model"}
    assert int(metrics["clients"]) == sum(size > 0 for size in SIZES)
    assert int(metrics["nonfinite"]) == int(metrics["nonfinite_model"]) == 0
    assert bool(jnp.isfinite(metrics["loss"]))


LAWS: dict[str, Callable[[Make], None]] = {
    law.__name__: law
    for law in (
        permutation,
        empty_slots,
        block_size,
        rounds_per_call,
        ordered,
        differentiable,
        streamed,
        devices,
        one_trace,
        resume,
        sweep,
        metrics_are_means,
    )
}
"""Every law, by its name."""


@checked()
def check_laws(make: Make, *, skip: tuple[str, ...] = ()) -> None:
    """Puts an algorithm through every law.

    **Arguments:**

    - `make`: `make(loss, batching)` builds the algorithm.
    - `skip`: the names of laws that it need not obey: one that takes signs or rounds
        has no useful derivative, and skips `"differentiable"`.

    **Raises:**

    `AssertionError` that says which law fails, and where.
    """
    for name in skip:
        if name not in LAWS:
            raise ValueError(f"There is no law {name!r}; these are: {', '.join(LAWS)}.")
    for name, law in LAWS.items():
        if name in skip:
            continue
        try:
            law(make)
        except AssertionError as error:
            raise AssertionError(f"The law {name!r} fails. {error}") from error
