"""Objectives: values and minima against NumPy, and as clients of real algorithms."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import objectives as eqo

from .shared import settled


KEY = jr.key(0)
RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(4, 4))
MATRIX = ROOT @ ROOT.T + np.eye(4)
LINEAR = RNG.normal(size=4)
ROWS = RNG.normal(size=(30, 4))
TARGETS = ROWS @ RNG.normal(size=4) + RNG.normal(size=30)
LABELS = (RNG.random(30) < 1 / (1 + np.exp(-ROWS @ [1.0, -1.0, 0.5, 0.0]))).astype(int)
WEIGHTS = RNG.uniform(0, 3, size=30)
X = RNG.normal(size=4)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64():
    with jax.enable_x64(True):  # noqa: FBT003
        yield


@pytest.fixture
def unchecked(monkeypatch):
    """As for a user, whose calls nobody holds against the annotations."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# Compiled once for each kind and size, not operation by operation.


@eqx.filter_jit
def value_and_grad(f, x):
    return jax.value_and_grad(f)(x)


@eqx.filter_jit
def values_and_optima(objectives, x):
    return eqx.filter_vmap(lambda f: (f(x), f.optimum()))(objectives)


@eqx.filter_jit
def compiled_optimum(objective):
    return objective.optimum()


def logistic(x, weights):
    """Value, gradient and Hessian of the logistic objective without `l2`."""
    z = ROWS @ x
    r = weights / weights.mean() / len(ROWS)
    p = 1 / (1 + np.exp(-z))
    value = (r * (np.log(1 + np.exp(z)) - LABELS * z)).sum()
    return (
        value,
        ROWS.T @ (r * (p - LABELS)),
        ROWS.T @ ((r * p * (1 - p))[:, None] * ROWS),
    )


def logistic_optimum(l2, weights):
    x = np.zeros(4)
    for _ in range(50):
        _, gradient, hessian = logistic(x, weights)
        x = x - np.linalg.solve(hessian + l2 * np.eye(4), gradient + l2 * x)
    return x


def ridge(l2):
    return ROWS.T @ ROWS / 30 + l2 * np.eye(4)


# For each objective its value and gradient at `X`, and its optimum, by NumPy.
CASES = {
    "quadratic": (
        lambda: eqo.Quadratic(MATRIX, LINEAR, 2.5),
        X @ MATRIX @ X / 2 - LINEAR @ X + 2.5,
        MATRIX @ X - LINEAR,
        np.linalg.solve(MATRIX, LINEAR),
    ),
    "least squares": (
        lambda: eqo.LeastSquares(ROWS, TARGETS),
        ((ROWS @ X - TARGETS) ** 2).mean() / 2,
        ROWS.T @ (ROWS @ X - TARGETS) / 30,
        np.linalg.lstsq(ROWS, TARGETS, rcond=None)[0],
    ),
    "ridge": (
        lambda: eqo.LeastSquares(ROWS, TARGETS, l2=0.3),
        (((ROWS @ X - TARGETS) ** 2).mean() + 0.3 * X @ X) / 2,
        ROWS.T @ (ROWS @ X - TARGETS) / 30 + 0.3 * X,
        np.linalg.solve(ridge(0.3), ROWS.T @ TARGETS / 30),
    ),
    "logistic": (
        lambda: eqo.LogisticRegression(ROWS, LABELS),
        logistic(X, np.ones(30))[0],
        logistic(X, np.ones(30))[1],
        logistic_optimum(0, np.ones(30)),
    ),
    "regularised, weighted logistic": (
        lambda: eqo.LogisticRegression(ROWS, LABELS, l2=0.1, weights=WEIGHTS),
        logistic(X, WEIGHTS)[0] + 0.05 * X @ X,
        logistic(X, WEIGHTS)[1] + 0.1 * X,
        logistic_optimum(0.1, WEIGHTS),
    ),
}
cases = pytest.mark.parametrize("name", CASES)


@cases
@pytest.mark.usefixtures("x64")
def test_value_gradient_and_optimum(name):
    make, value, gradient, optimum = CASES[name]
    objective = make()
    assert objective.dim == 4
    got, slope = value_and_grad(objective, jnp.asarray(X))
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, value, rtol=1e-12)
    np.testing.assert_allclose(slope, gradient, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(objective.optimum(), optimum, rtol=1e-10, atol=1e-12)


@cases
def test_in_single_precision(name):
    make, value, _, optimum = CASES[name]
    objective = make()
    got = objective(jnp.asarray(X))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, value, rtol=1e-5)
    assert objective.optimum().dtype == jnp.float32
    np.testing.assert_allclose(objective.optimum(), optimum, rtol=1e-3, atol=1e-5)


@cases
@pytest.mark.usefixtures("unchecked")
def test_a_vector_may_be_of_integers_or_a_list(name):
    objective = CASES[name][0]()
    numbers = [1, -2, 0, 3]
    expected, gradient = value_and_grad(objective, jnp.array(numbers, jnp.float32))
    ints = jnp.array(numbers)
    assert ints.dtype == jnp.int32
    floating = list(map(float, numbers))
    vectors = [numbers, tuple(numbers), floating, ints, ints.astype(jnp.int8)]
    vectors += [np.array(numbers), np.array(floating), np.array(floating, np.float32)]
    got = [objective(vector) for vector in vectors]
    two = np.array([numbers, numbers])
    jitted, mapped, *slopes = jax.jit(
        lambda ints, two, *floats: (
            objective(ints),
            jax.vmap(objective)(two),
            *map(jax.grad(objective), floats),
        )
    )(ints, two, floating, np.array(floating))
    got += [jitted, *mapped]
    for one in got:
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, expected, rtol=1e-6)
    for slope in slopes:
        np.testing.assert_allclose(slope, gradient, rtol=1e-5, atol=1e-6)


def test_the_value_at_integers():
    objective = eqo.LeastSquares([[1.5, 2.0]], [1.0])
    assert objective(jnp.array([1, 2])) == 4.5**2 / 2


@cases
@pytest.mark.parametrize("shape", [(), (3,), (4, 2)])
def test_what_is_no_vector_of_its_length_is_refused(name, shape):
    with pytest.raises(ValueError, match="`x` must be a vector of length 4, .*got sha"):
        CASES[name][0]()(np.ones(shape))


@cases
@pytest.mark.usefixtures("x64")
def test_the_value_is_the_mean_loss_of_the_examples(name):
    objective = CASES[name][0]()
    examples = objective.examples()
    assert all(isinstance(column, np.ndarray) for column in examples.values())
    assert {len(column) for column in examples.values()} == {objective.num_examples}

    def mean(x):
        losses = jax.vmap(objective.loss, (None, 0, None))(x, examples, KEY)
        assert losses.dtype == x.dtype
        return losses.mean()

    x = jnp.asarray(X)
    value, gradient = value_and_grad(objective, x)
    got, slope = value_and_grad(mean, x)
    np.testing.assert_allclose(got, value, rtol=1e-12)
    np.testing.assert_allclose(slope, gradient, rtol=1e-10, atol=1e-13)
    # The model's dtype wins.
    single = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    for f in (objective, mean):
        for out in jax.eval_shape(jax.value_and_grad(f), single):
            assert out.dtype == jnp.float32


@cases
@pytest.mark.usefixtures("x64")
def test_under_jit_and_vmap(name):
    make, value, _, optimum = CASES[name]
    objective = make()
    two = jax.tree.map(lambda a: jnp.asarray(np.stack([a, a])), objective)
    values, optima = values_and_optima(two, jnp.asarray(X))
    np.testing.assert_allclose(values, [value] * 2, rtol=1e-12)
    np.testing.assert_allclose(optima, [optimum] * 2, rtol=1e-9, atol=1e-11)
    if not isinstance(objective, eqo.LogisticRegression):  # see below for its own
        got = compiled_optimum(objective)
        np.testing.assert_allclose(got, optimum, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_built_under_jit_and_vmap():
    @jax.jit
    @jax.vmap
    def optima(l2):
        least = eqo.LeastSquares(jnp.asarray(ROWS), jnp.asarray(TARGETS), l2=l2)
        matrix = [[l2, jnp.zeros(())], [jnp.zeros(()), l2]]
        quadratic = eqo.Quadratic(matrix, jnp.ones(2), l2)
        weights = jnp.asarray(WEIGHTS)
        regression = eqo.LogisticRegression(ROWS, LABELS, l2=l2, weights=weights)
        mean = eqo.mean_quadratic([quadratic, quadratic], l2 * jnp.ones(2))
        return least.optimum(), mean.optimum(), regression.optimum()

    l2s = np.array([0.1, 2.0])
    least, mean, regression = optima(jnp.asarray(l2s))
    for i, l2 in enumerate(l2s):
        expected = np.linalg.solve(ridge(l2), ROWS.T @ TARGETS / 30)
        np.testing.assert_allclose(least[i], expected, rtol=1e-10)
        np.testing.assert_allclose(mean[i], [1 / l2, 1 / l2], rtol=1e-12)
        expected = logistic_optimum(l2, WEIGHTS)
        np.testing.assert_allclose(regression[i], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("l2", [0.0, 0.7])
def test_least_squares_are_a_quadratic(l2):
    objective = eqo.LeastSquares(ROWS, TARGETS, l2=l2)
    quadratic = objective.quadratic()
    x = jnp.asarray(X)
    value, gradient = value_and_grad(objective, x)
    got, slope = value_and_grad(quadratic, x)
    np.testing.assert_allclose(got, value, rtol=1e-12)
    np.testing.assert_allclose(slope, gradient, rtol=1e-11)
    np.testing.assert_allclose(quadratic.optimum(), objective.optimum(), rtol=1e-11)


def test_logistic_far_out_and_badly_scaled():
    # 2y - 1 times a large z: a naive form of the loss is 0 or infinite there.
    objective = eqo.LogisticRegression([[1.0], [1.0]], [1, 0])
    np.testing.assert_allclose(objective(jnp.array([500.0])), 250, rtol=1e-6)
    right = eqo.LogisticRegression([[1.0], [1.0]], [1, 1], l2=0.0)
    np.testing.assert_allclose(right(jnp.array([30.0])), np.exp(-30), rtol=1e-4)


def twelve(rows, labels):
    """The same objective with twelve rows, so that one program serves all cases."""
    times = 12 // len(rows)
    return np.tile(rows, (times, 1)), np.tile(labels, times)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "rows, labels",
    [
        ([[0.1, 0.0], [130.6, 80.5], [0.6, 3.3]], [0, 0, 1]),
        ([[-0.2, -0.2], [283.0, 232.5], [9.9, -8.5]], [1, 0, 1]),
    ],
)
def test_where_newtons_full_steps_diverge(rows, labels):
    objective = eqo.LogisticRegression(*twelve(rows, labels), l2=1e-3)
    _, gradient = value_and_grad(objective, objective.optimum())
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_units_of_a_variable_do_not_matter():
    units = np.array([1e-6, 1.0, 1e3, 1e6])
    for kind, y in ((eqo.LeastSquares, TARGETS), (eqo.LogisticRegression, LABELS)):
        plain = kind(ROWS, y).optimum()
        scaled = kind(ROWS * units, y).optimum()
        np.testing.assert_allclose(scaled * units, plain, rtol=1e-6)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("scale", [1e-2, 1e2])
@pytest.mark.parametrize(
    "rows, labels",
    [
        ([[1.0], [2.0], [-1.0]], [1, 1, 0]),
        ([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0], [1.0, 4.0]], [0, 0, 1, 1]),
        ([[1.0, 0.3], [1.0, -2.0]], [1, 1]),
        # Separated but for two rows on the plane itself.
        ([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [1, 0, 1, 0]),
        # Any multiple of (1, -1) may be added.
        ([[1.0, 1.0], [2.0, 2.0], [-1.0, -1.0]], [1, 0, 0]),
        ([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]], [1, 0, 0]),
        # The way to infinity is short in the units of the first.
        ([[1e8, 0.0], [-1e8, 0.0], [0.0, 1.0], [0.0, 1.0]], [1, 0, 1, 0]),
    ],
)
def test_logistic_without_a_minimum(rows, labels, scale, x64):
    with jax.enable_x64(x64):
        rows, labels = twelve(scale * np.array(rows), labels)
        objective = eqo.LogisticRegression(rows, labels)
        with pytest.raises(ValueError, match="no single minimum.*Set `l2` above 0"):
            objective.optimum()
        # Nothing can be raised there.
        assert np.isnan(compiled_optimum(objective)).all()
        regular = eqo.LogisticRegression(rows, labels, l2=0.01)
        for optimum in (regular.optimum(), compiled_optimum(regular)):
            _, gradient = value_and_grad(regular, optimum)
            np.testing.assert_allclose(gradient / np.abs(rows).max(), 0, atol=1e-5)


@pytest.mark.parametrize("x64", [False, True])
def test_one_of_many_minima_is_refused(x64):
    with jax.enable_x64(x64):
        for columns in ([0, 1, 1], [2, 2, 2], [0, 3, 1, 0]):
            objective = eqo.LogisticRegression(ROWS[:, columns], LABELS)
            with pytest.raises(ValueError, match="linearly dependent"):
                objective.optimum()
            least = eqo.LeastSquares(ROWS[:, columns], TARGETS)
            with pytest.raises(ValueError, match="linearly dependent"):
                least.optimum()
        # Both labels for every row: the start is a minimum, one of many.
        rows = ROWS[:15, :3].copy()
        rows[:, 2] = rows[:, 0] + rows[:, 1]
        labels = np.repeat([0, 1], 15)
        objective = eqo.LogisticRegression(np.concatenate([rows, rows]), labels)
        with pytest.raises(ValueError, match="linearly dependent"):
            objective.optimum()


def test_labels_of_any_dtype_keep_it():
    for dtype in (bool, np.uint8, np.int32, np.float32):
        objective = eqo.LogisticRegression(ROWS, LABELS.astype(dtype), l2=0.1)
        assert objective.examples()["y"].dtype == dtype
        expected = logistic_optimum(0.1, np.ones(30))
        np.testing.assert_allclose(objective.optimum(), expected, rtol=1e-3)


def test_the_host_may_change_its_array():
    matrix = np.eye(2, dtype=np.float32)
    objective = eqo.Quadratic(matrix, np.ones(2, np.float32))
    matrix[0, 0] = 5
    assert objective.matrix[0, 0] == 1


# Means.


@pytest.mark.usefixtures("x64")
def test_mean_quadratic():
    other = eqo.Quadratic(np.eye(4), np.ones(4), 1.0)
    mean = eqo.mean_quadratic([CASES["quadratic"][0](), other], [1, 3])
    np.testing.assert_allclose(mean.matrix, MATRIX / 4 + 0.75 * np.eye(4))
    np.testing.assert_allclose(mean.linear, LINEAR / 4 + 0.75)
    np.testing.assert_allclose(mean.constant, 2.5 / 4 + 0.75)
    alike = eqo.mean_quadratic([other, other])
    np.testing.assert_allclose(alike.matrix, np.eye(4))


def three_clients(kind):
    bounds = [slice(0, 5), slice(5, 12), slice(12, 30)]
    if kind is eqo.Quadratic:
        return [
            eqo.LeastSquares(ROWS[b], TARGETS[b], l2=0.2).quadratic() for b in bounds
        ]
    y = TARGETS if kind is eqo.LeastSquares else LABELS
    return [kind(ROWS[b], y[b], l2=0.2) for b in bounds]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(
    "kind", [eqo.Quadratic, eqo.LeastSquares, eqo.LogisticRegression]
)
def test_the_global_objective(kind, weighted):
    clients: Any = three_clients(kind)
    problem = eqo.FederatedProblem(clients)
    objective = problem.objective(weighted=weighted)
    sizes = [1, 1, 1] if kind is eqo.Quadratic else [5, 7, 18]
    assert problem.weights.tolist() == sizes
    assert len(problem) == 3
    assert problem.dim == 4
    w = np.array(sizes) / sum(sizes) if weighted else np.ones(3) / 3
    x = jnp.asarray(X)
    value = sum(a * value_and_grad(o, x)[0] for a, o in zip(w, clients, strict=True))
    np.testing.assert_allclose(value_and_grad(objective, x)[0], value, rtol=1e-12)
    optimum = problem.optimum(weighted=weighted)
    gradient = sum(
        a * np.asarray(value_and_grad(o, optimum)[1])
        for a, o in zip(w, clients, strict=True)
    )
    np.testing.assert_allclose(gradient, 0, atol=1e-9)
    if kind is eqo.LeastSquares:
        mean = eqo.mean_quadratic([o.quadratic() for o in clients], w)
        np.testing.assert_allclose(optimum, mean.optimum(), rtol=1e-10)
        got, expected = value_and_grad(objective, x)[0], value_and_grad(mean, x)[0]
        np.testing.assert_allclose(got, expected, rtol=1e-12)
        assert isinstance(objective, kind) == weighted


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weighted", [True, False])
def test_the_global_objective_of_weighted_rows(weighted):
    clients = [
        eqo.LogisticRegression(ROWS[:10], LABELS[:10], weights=WEIGHTS[:10]),
        eqo.LogisticRegression(ROWS[10:], LABELS[10:], weights=WEIGHTS[10:]),
    ]
    problem = eqo.FederatedProblem(clients)
    x = jnp.asarray(X)
    w = [1 / 3, 2 / 3] if weighted else [1 / 2, 1 / 2]
    value = sum(a * value_and_grad(o, x)[0] for a, o in zip(w, clients, strict=True))
    objective = problem.objective(weighted=weighted)
    np.testing.assert_allclose(value_and_grad(objective, x)[0], value, rtol=1e-12)


# Random problems.


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


RANDOM = {
    "quadratics": eqo.random_quadratics,
    "least squares": eqo.random_least_squares,
    "logistic": eqo.random_logistic,
}
# Most problems have these sizes: to draw others is to compile the draws anew.
ROWS_OF_A_CLIENT = {
    "quadratics": {},
    "least squares": {"num_examples": (20, 40)},
    "logistic": {"num_examples": (20, 40)},
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_problems_depend_on_the_key_alone(name):
    make = functools.partial(RANDOM[name], dim=3, **ROWS_OF_A_CLIENT[name])
    state: Any = np.random.get_state()
    problem = make(4, key=KEY)
    assert same(problem, make(4, key=KEY))
    other = make(4, key=jr.key(1))
    for a, b in zip(problem.objectives, other.objectives, strict=True):
        assert not same(a, b)
    assert not same(problem.objectives[0], problem.objectives[1])
    now: Any = np.random.get_state()
    np.testing.assert_array_equal(now[1], state[1])
    assert problem.dim == 3
    # More clients leave the first ones as they are.
    for a, b in zip(problem.objectives, make(20, key=KEY).objectives, strict=False):
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dim", [3, 4])
def test_the_eigenvalues_of_random_quadratics(dim):
    problem = eqo.random_quadratics(
        300, dim, min_eigenvalue=0.5, max_eigenvalue=20, key=KEY
    )
    objectives: Any = problem.objectives[:2]
    for objective in objectives:
        assert objective.matrix.dtype == jnp.float64
        values = np.linalg.eigvalsh(objective.matrix)
        np.testing.assert_allclose(values[[0, -1]], [0.5, 20], rtol=1e-12)
        assert not np.allclose(objective.matrix, np.diag(np.diag(objective.matrix)))


def test_diagonal_and_one_dimensional_quadratics():
    for dim, diagonal in ((1, False), (1, True), (3, True)):
        problem = eqo.random_quadratics(20, dim, diagonal=diagonal, key=KEY)
        objectives: Any = problem.objectives
        matrices = np.stack([o.matrix for o in objectives])
        entries = np.diagonal(matrices, axis1=1, axis2=2)
        np.testing.assert_array_equal(matrices, entries[:, :, None] * np.eye(dim))
        assert entries.min() >= 1
        assert entries.max() <= 10
        assert np.unique(entries).size == entries.size
        assert entries.std() > 1.5


@pytest.mark.usefixtures("x64")
def test_heterogeneity():
    def optima(heterogeneity):
        make = eqo.random_quadratics
        problem = make(300, 3, heterogeneity=heterogeneity, key=KEY)
        objectives: Any = problem.objectives
        matrices = np.stack([o.matrix for o in objectives])
        linears = np.stack([o.linear for o in objectives])
        return np.linalg.solve(matrices, linears[..., None])[..., 0]

    same = optima(0)
    np.testing.assert_allclose(same, same[:1].repeat(300, 0), rtol=1e-10)
    apart = optima(2.0) - same
    np.testing.assert_allclose(apart.std(0), 2, rtol=0.1)
    np.testing.assert_allclose(apart.mean(0), 0, atol=0.3)


@pytest.mark.usefixtures("x64")
def test_random_least_squares():
    problem = eqo.random_least_squares(
        2,
        4,
        num_examples=20_000,
        min_eigenvalue=2,
        max_eigenvalue=8,
        noise=0.5,
        key=KEY,
    )
    a, b = problem.objectives
    assert isinstance(a, eqo.LeastSquares)
    assert isinstance(b, eqo.LeastSquares)
    for o in (a, b):
        x, y = np.asarray(o.features), np.asarray(o.targets)
        values, _ = np.linalg.eigh(np.cov(x.T))
        np.testing.assert_allclose(values[[0, -1]], [2, 8], rtol=0.05)
        errors = y - x @ np.asarray(o.optimum())
        np.testing.assert_allclose(errors.std(), 0.5, rtol=0.05)
    # A rotation of its own.
    one, other = (np.cov(np.asarray(o.features).T) for o in (a, b))
    assert np.abs(one - other).max() > 0.5


@pytest.mark.usefixtures("x64")
def test_intercept_and_informative_weights():
    problem = eqo.random_least_squares(
        2, 4, intercept=True, num_informative=2, heterogeneity=0, l2=0, key=KEY
    )
    optimum = np.asarray(problem.optimum())
    assert problem.dim == 4
    assert problem.weights.tolist() == [100, 100]  # by default
    assert (np.abs(optimum[:-1]) > 1e-8).sum() == 2
    assert np.abs(optimum[-1]) > 1e-8
    for o in problem.objectives:
        np.testing.assert_array_equal(o.examples()["x"][:, -1], 1)
        # Without noise every client's optimum is the common one.
        np.testing.assert_allclose(o.optimum(), optimum, atol=1e-10)


@pytest.mark.parametrize("make", [eqo.random_least_squares, eqo.random_logistic])
def test_numbers_of_examples_and_l2(make):
    problem = make(4, 3, num_examples=40, l2=0.5, key=KEY)
    assert problem.weights.tolist() == [40, 40, 40, 40]
    assert [float(o.l2) for o in problem.objectives] == [0.5] * 4
    problem = make(20, 3, num_examples=(37, 40), key=KEY)
    assert set(problem.weights.tolist()) == {37, 38, 39, 40}
    np.testing.assert_array_equal(problem.dataset().client_sizes, problem.weights)


@pytest.mark.usefixtures("x64")
def test_random_logistic_labels():
    problem = eqo.random_logistic(
        2, 4, num_examples=20_000, max_eigenvalue=2, l2=0, key=KEY
    )
    objective = problem.objectives[0]
    labels = objective.examples()["y"]
    assert set(labels.tolist()) == {0, 1}
    # Without noise, least squares of the same key have z for targets.
    linear = eqo.random_least_squares(
        2, 4, num_examples=20_000, max_eigenvalue=2, key=KEY
    ).objectives[0]
    np.testing.assert_array_equal(linear.examples()["x"], objective.examples()["x"])
    z = linear.examples()["y"]
    for low, high in ((-2, -1), (-1, 0), (0, 1), (1, 2)):
        chosen = (z > low) & (z < high)
        expected = (1 / (1 + np.exp(-z[chosen]))).mean()
        np.testing.assert_allclose(labels[chosen].mean(), expected, atol=0.03)


# As clients of algorithms.


def problem_of(name):
    own = {
        "quadratics": {},
        "least squares": {"noise": 0.1, "l2": 0.1},
        "logistic": {"l2": 0.2},
    }
    options = ROWS_OF_A_CLIENT[name] | own[name]
    return RANDOM[name](4, 3, max_eigenvalue=3, key=KEY, **options)


def train(problem, algorithm, batching, num_rounds):
    loader = eqf.data.Loader(problem.dataset(), eqf.data.AllClients(), batching)
    model = jnp.asarray(np.zeros(problem.dim, np.float32))
    return eqf.train(algorithm, model, loader, num_rounds=num_rounds, key=KEY).model


def last_of(problem, algorithm, num_rounds):
    """Of rounds in which the order of examples does not matter."""
    model = jnp.asarray(np.zeros(problem.dim, np.float32))
    state = algorithm.init(model, num_clients=len(problem))
    cohort = eqf.data.cohort(problem.dataset(), algorithm.batching)
    return settled(algorithm, state, cohort, num_rounds).model


FULL = eqf.data.Epochs(1, batch_size=40)


@pytest.mark.parametrize("name", RANDOM)
def test_one_step_is_numpys(name):
    problem = problem_of(name)
    weights = problem.weights / problem.weights.sum()
    gradient = np.zeros(3)
    for weight, objective in zip(weights, problem.objectives, strict=True):
        e = {k: v.astype(float) for k, v in objective.examples().items()}
        if name == "quadratics":
            own = -e["linear"][0]
        elif name == "least squares":
            own = -(e["x"] * e["y"][:, None]).mean(0)
        else:
            own = (e["x"] * (0.5 - e["y"])[:, None]).mean(0)
        gradient += weight * own
    expected = -0.1 * gradient
    for algorithm in (
        eqf.FedSGD(problem.loss, optax.sgd(0.1), FULL),
        eqf.FedAvg(problem.loss, optax.sgd(0.1), FULL),
    ):
        model = train(problem, algorithm, FULL, 1)
        np.testing.assert_allclose(model, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name, weighted",
    # Quadratics have one example each, so that both means are the same.
    [("quadratics", True)]
    + [(name, w) for name in ("least squares", "logistic") for w in (True, False)],
)
def test_fedsgd_reaches_the_optimum(name, weighted):
    problem = problem_of(name)
    mean = eqf.WeightedMean() if weighted else eqf.UniformMean()
    algorithm = eqf.FedSGD(problem.loss, optax.sgd(0.5), FULL, aggregator=mean)
    optimum = np.asarray(problem.optimum(weighted=weighted))
    model = last_of(problem, algorithm, 150 if name == "logistic" else 40)
    np.testing.assert_allclose(model, optimum, rtol=1e-3, atol=1e-4)
    # The two optima differ, or the mean would not matter.
    if name != "quadratics":
        other = np.asarray(problem.optimum(weighted=not weighted))
        assert np.abs(optimum - other).max() > 2e-3


def test_fedavg_drifts_only_if_clients_differ():
    batching = eqf.data.Steps(10, batch_size=1)

    def error(heterogeneity):
        problem = eqo.random_quadratics(4, 3, heterogeneity=heterogeneity, key=KEY)
        algorithm = eqf.FedAvg(problem.loss, optax.sgd(0.1), batching)
        model = last_of(problem, algorithm, 60)
        return np.linalg.norm(np.asarray(model) - np.asarray(problem.optimum()))

    assert error(0) < 1e-5
    assert error(3) > 0.05


@pytest.mark.parametrize("name", RANDOM)
def test_losses_built_anew_are_not_traced_again(name):
    objectives = [problem_of(name).objectives[0] for _ in range(3)]
    x = jnp.zeros(3)

    @eqx.filter_jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def gradient(loss, x, examples):
        example = jax.tree.map(lambda column: column[0], examples)
        return jax.grad(loss)(x, example, KEY)

    for i, objective in enumerate(objectives):
        loss = objective.loss
        if not isinstance(objective, eqo.Quadratic):
            loss = eqx.tree_at(lambda o: o.l2, objective, jnp.asarray(0.1 * i)).loss
        gradient(loss, x, objective.examples())


def test_the_dataset():
    problem = eqo.random_quadratics(4, 3, key=KEY)
    dataset = problem.dataset()
    assert dataset.client_ids == [f"client00{i}" for i in range(4)]
    second = problem.objectives[1]
    assert isinstance(second, eqo.Quadratic)
    np.testing.assert_array_equal(dataset["client001"]["matrix"][0], second.matrix)


def test_many_clients_keep_their_order():
    seven = [eqo.Quadratic([[1.0]], [float(i)]) for i in range(7)]
    numbers = np.arange(1002) % 7
    problem = eqo.FederatedProblem([seven[i] for i in numbers])
    column = problem.dataset().columns["linear"]
    np.testing.assert_array_equal(np.asarray(column)[:, 0], numbers)


# Errors.

ONE = eqo.Quadratic(np.eye(2), np.ones(2))
ERRORS = {
    "not square": (lambda: eqo.Quadratic(np.ones((2, 3)), np.ones(2)), "square"),
    "no matrix": (lambda: eqo.Quadratic(np.ones(2), np.ones(2)), "square.*\\(2,\\)"),
    "empty": (lambda: eqo.Quadratic(np.ones((0, 0)), np.ones(0)), "square"),
    "linear": (lambda: eqo.Quadratic(np.eye(2), np.ones(3)), "`linear`.*\\(3,\\)"),
    "constant": (lambda: eqo.Quadratic(np.eye(2), np.ones(2), np.ones(2)), "one num"),
    "asymmetric": (
        lambda: eqo.Quadratic([[1.0, 0.5], [0.0, 1.0]], [0.0, 0.0]),
        "symmetric.*up to 0.5.*A.T",
    ),
    "negative": (
        lambda: eqo.Quadratic(np.diag([1.0, -1.0]), np.ones(2)).optimum(),
        "no single minimum.*positive definite",
    ),
    "indefinite": (
        lambda: eqo.Quadratic([[1.0, 1.5], [1.5, 1.0]], np.ones(2)).optimum(),
        "no single minimum.*positive definite",
    ),
    "singular": (
        lambda: eqo.Quadratic(np.ones((2, 2)), np.ones(2)).optimum(),
        "no single minimum",
    ),
    "rows": (lambda: eqo.LeastSquares(np.ones(3), np.ones(3)), "`features`.*matrix"),
    "no rows": (lambda: eqo.LeastSquares(np.ones((0, 2)), []), "at least one row"),
    "targets": (
        lambda: eqo.LeastSquares(np.ones((3, 2)), np.ones(2)),
        "`targets`.*each of the 3 rows.*\\(2,\\)",
    ),
    "negative l2": (
        lambda: eqo.LeastSquares(np.ones((3, 2)), np.ones(3), l2=-1.0),
        "`l2` must be at least 0, got -1",
    ),
    "few rows": (
        lambda: eqo.LeastSquares(ROWS[:3], TARGETS[:3]).optimum(),
        "3 examples of 4 features.*dependent.*Set `l2`",
    ),
    "labels": (
        lambda: eqo.LogisticRegression(ROWS, 2 * LABELS - 1),
        "0 or 1, got \\[-1, 1\\]\\.",
    ),
    "many labels": (
        lambda: eqo.LogisticRegression(ROWS, np.arange(30)),
        "got \\[0, 1, 2, 3, 4\\] and others",
    ),
    "shape of labels": (
        lambda: eqo.LogisticRegression(ROWS, LABELS[:3]),
        "`labels` must have one number for each of the 30 rows",
    ),
    "logistic l2": (
        lambda: eqo.LogisticRegression(ROWS, LABELS, l2=-0.5),
        "`l2` must be at least 0, got -0.5",
    ),
    "negative weights of rows": (
        lambda: eqo.LogisticRegression(ROWS, LABELS, weights=-WEIGHTS),
        "`weights` must be finite and at least 0",
    ),
    "zero weights of rows": (
        lambda: eqo.LogisticRegression(ROWS, LABELS, weights=np.zeros(30)),
        "one of them more than 0, got some from 0 to 0",
    ),
    "weights of rows": (
        lambda: eqo.LogisticRegression(ROWS, LABELS, weights=np.ones(3)),
        "`weights` must have one number for each of the 30 rows of `features`",
    ),
    "number of weights": (
        lambda: eqo.mean_quadratic([ONE, ONE], [1.0]),
        "each of the 2 quadratics, got shape \\(1,\\)",
    ),
    "negative weights": (
        lambda: eqo.mean_quadratic([ONE, ONE], [1.0, -1.0]),
        "at least 0.*got \\[1.0, -1.0\\]",
    ),
    "zero weights": (lambda: eqo.mean_quadratic([ONE], [0]), "more than 0"),
    "weights that are no numbers": (
        lambda: eqo.mean_quadratic([ONE, ONE], [1.0, np.nan]),
        "finite",
    ),
    "no quadratics": (lambda: eqo.mean_quadratic([]), "at least one.*got 0"),
    "quadratics of different dimensions": (
        lambda: eqo.mean_quadratic([ONE, eqo.Quadratic([[1.0]], [1.0])]),
        "same dimension, got 2 with the dimensions \\[1, 2\\]",
    ),
    "no clients": (lambda: eqo.FederatedProblem([]), "at least one objective"),
    "kinds": (
        lambda: eqo.FederatedProblem(
            [ONE, eqo.LeastSquares(np.ones((3, 2)), np.ones(3))]
        ),
        "client 0 is a `Quadratic` and that of client 1 a `LeastSquares`",
    ),
    "dimensions": (
        lambda: eqo.FederatedProblem([ONE, ONE, eqo.Quadratic([[1.0]], [1.0])]),
        "client 0 has 2 and that of client 2 has 1",
    ),
    "l2": (
        lambda: eqo.FederatedProblem(
            [eqo.LeastSquares(ROWS, TARGETS, l2=l2) for l2 in (0.25, 0.5)]
        ),
        "0.25.*client 1 has.*0.5.*same `l2`",
    ),
    "clients": (
        lambda: eqo.random_quadratics(0, 2, key=KEY),
        "`num_clients` must be at least 1, got 0",
    ),
    "dim": (lambda: eqo.random_quadratics(2, 0, key=KEY), "`dim` must be at least 1"),
    "min_eigenvalue": (
        lambda: eqo.random_quadratics(2, 2, min_eigenvalue=0, key=KEY),
        "`min_eigenvalue` must be more than 0",
    ),
    "max_eigenvalue": (
        lambda: eqo.random_least_squares(2, 2, min_eigenvalue=20, key=KEY),
        "`max_eigenvalue` must be at least `min_eigenvalue`, got 10 and 20",
    ),
    "heterogeneity": (
        lambda: eqo.random_quadratics(2, 2, heterogeneity=-1, key=KEY),
        "`heterogeneity` must be at least 0",
    ),
    "heterogeneity of rows": (
        lambda: eqo.random_logistic(2, 2, heterogeneity=-1, key=KEY),
        "`heterogeneity` must be at least 0",
    ),
    "noise": (
        lambda: eqo.random_least_squares(2, 2, noise=-1, key=KEY),
        "`noise` must be at least 0",
    ),
    "num_examples": (
        lambda: eqo.random_least_squares(2, 2, num_examples=0, key=KEY),
        "`num_examples` must be at least 1",
    ),
    "range of num_examples": (
        lambda: eqo.random_logistic(2, 2, num_examples=(5, 4), key=KEY),
        "smallest and the largest one, got \\(5, 4\\)",
    ),
    "intercept": (
        lambda: eqo.random_logistic(2, 1, intercept=True, key=KEY),
        "`dim` counts the intercept.*at least 2",
    ),
    "num_informative": (
        lambda: eqo.random_logistic(2, 3, num_informative=3, intercept=True, key=KEY),
        "`num_informative`.*2 besides an intercept, got 3",
    ),
    "no informative": (
        lambda: eqo.random_logistic(2, 3, num_informative=0, key=KEY),
        "`num_informative` must be at least 1, got 0",
    ),
}


@pytest.mark.parametrize(
    "objectives, found", [([1, 2], "0 is a `int`"), ([ONE, "a"], "1 is a `str`")]
)
@pytest.mark.usefixtures("unchecked")
def test_a_client_without_an_objective(objectives, found):
    message = f"`objectives` must hold objectives, .* that of client {found}"
    with pytest.raises(TypeError, match=message):
        eqo.FederatedProblem(objectives)


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    act, message = ERRORS[name]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        act()
