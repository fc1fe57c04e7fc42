"""What several test files use: the repository's scripts, models of NumPy's numbers,
transformations, and a count of programs."""

import contextlib
import importlib.util
import pathlib

import equinox as eqx
import jax
import jax.monitoring
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec as P

import equifed as eqf
from equifed import testing


ROOT = pathlib.Path(__file__).parents[1]


def script(name, folder="scripts"):
    """A module of `scripts/`, or of another folder that is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights_of(package):
    """The folder of a package of weights, in `nox -s llm`."""
    found = importlib.util.find_spec(package)  # not imported: it may need another
    if found is None or found.origin is None:
        pytest.skip(f"needs the package `{package.replace('_', '-')}`")
    return pathlib.Path(found.origin).parent


def same_bits(a, b):
    """Asserts that two trees are the same, to the bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def line_loss(model, example, key):
    """`testing.noisy_loss` without its noise, which is nearly half of the program of a
    small round: for tests in which no key could be wrong."""
    del key
    x, y = (example[name].astype(model.bias.dtype) for name in ("x", "y"))
    error = model(x) - y
    return error**2 / 2, {"error": error}


def only(cohort, client):
    """A cohort in which the others have no examples: its shape is the same for all."""
    mine = np.asarray(cohort.index) == client
    assert mine.any()
    where = lambda c: (c.stop, c.num_examples)  # noqa: E731
    stop = np.where(mine, cohort.stop, cohort.start)
    left = np.where(mine, cohort.num_examples, 0)
    return eqx.tree_at(where, cohort, (jnp.asarray(stop), jnp.asarray(left)))


@eqx.filter_jit
def settled(algorithm, state, cohort, num_rounds):
    """The state after many rounds of one cohort: to plan one takes longer than a small
    round, and another of the same clients has another order of their examples only."""

    def one(_, state):
        return algorithm.round(state, cohort, key=jr.key(0))[0]

    return jax.lax.fori_loop(0, num_rounds, one, state)


def settled_at(make, problem, batching, num_rounds):
    """Where a method is after many rounds of quadratics, which begin at 3."""
    dataset = problem.dataset()
    algorithm = make(testing.quadratic_loss, batching)
    state = algorithm.init(testing.Point(3.0), num_clients=dataset.num_clients)
    cohort = eqf.data.cohort(dataset, batching)
    return float(settled(algorithm, state, cohort, num_rounds).model.x)


def descent(f):
    """Some steps of gradient descent on the mean loss, as a function of the params and
    the examples."""

    def mean_loss(params, x):
        return jnp.mean(jax.vmap(f, (None, 0))(params, x))

    def descend(params, x):
        def body(_, params):
            grads = jax.grad(mean_loss)(params, x)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

        return jax.lax.fori_loop(0, 3, body, params)

    return descend


def over_two_devices(f, *, check_vma):
    """`f(params, x)` of each client's `x`, compiled, with clients on two devices."""
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Auto,))

    def local(params, x):
        if check_vma:
            params = jax.lax.pcast(params, "clients", to="varying")
        return jax.vmap(f, (None, 0))(params, x)

    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), P("clients")),
            out_specs=P("clients"),
            check_vma=check_vma,
        )
    )


def drawn(make, mean, scale):
    """What `make` makes of a key, with NumPy's numbers in place of its own.

    To compile how a small language model begins takes two seconds, and this nothing.
    """
    rng = np.random.default_rng(0)

    def numbers(x):
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        return jnp.asarray(rng.normal(mean, scale, x.shape), x.dtype)

    return jax.tree.map(numbers, eqx.filter_eval_shape(make, jr.key(0)))


@contextlib.contextmanager
def compilations():
    """A list that has an entry for each program that is compiled inside."""
    found = []

    def listen(event: str, duration_secs: float, **about: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            found.append(about)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
