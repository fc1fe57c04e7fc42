"""Layers, objectives, figures, and what tests algorithms."""

import functools

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import equifed as eqf
from equifed import nn, objectives, plot, testing

from .algorithms import numbers, POSITIVE, RATE
from .data import seeds
from .parts import counts
from .running import EITHER
from .shared import DATASET, KEY, MODEL, train


LINES = [[1.0, 2.0], [3.0, 4.0]]
IDENTITY = np.eye(2)
TWO_OPTIMA = objectives.Quadratic(IDENTITY, np.ones(2))
PAIR = testing.Quadratics((1.0, 4.0), (1.0, -1.0), (4, 4))


# What is computed is made when it is asked for: each process that collects the tests
# imports this.
@functools.cache
def lstm():
    return nn.LSTM(3, 2, key=KEY)


@functools.cache
def solution():
    return train(num_rounds=0)


def conv(*sizes, key=KEY, **kwargs):
    return nn.Conv2d(*(sizes or (1, 2, 3)), key=key, **kwargs)


def sizes(make, *, name):
    return {
        f"{name}=0": (
            lambda: make(0),
            ValueError,
            f"`{name}` must be at least 1, got 0",
        ),
        f"{name}=1.5": (lambda: make(1.5), TypeError, f"`{name}`"),
        f"{name}=(1, 2, 3)": (
            lambda: make((1, 2, 3)),
            ValueError,
            (f"`{name}` must be one or two integers", "(1, 2, 3)"),
        ),
        f"{name}=True": (lambda: make(True), TypeError, f"`{name}`"),
    }


def image(*shape, dtype=jnp.float32):
    return jnp.ones(shape, dtype)


def clients(make):
    """What all that draw problems refuse."""
    more = {
        "max_eigenvalue=0.5": (
            lambda: make(2, 2, max_eigenvalue=0.5),
            ValueError,
            ("`max_eigenvalue`", "0.5"),
        )
    }
    return {
        **counts(lambda x: make(x, 2), name="num_clients", least=1),
        **counts(lambda x: make(2, x), name="dim", least=1),
        **numbers(lambda x: make(2, 2, heterogeneity=x), RATE, name="heterogeneity"),
        **numbers(
            lambda x: make(2, 2, min_eigenvalue=x), POSITIVE, name="min_eigenvalue"
        ),
        "an integer for a key": (
            lambda: make(2, 2, key=0),
            TypeError,
            "`key` must be one random key, got 0",
        ),
        **more,
    }


def with_key(function):
    return lambda *args, **kwargs: function(*args, **{"key": KEY, **kwargs})


quadratics = with_key(objectives.random_quadratics)
least_squares = with_key(objectives.random_least_squares)
logistic = with_key(objectives.random_logistic)


def make(loss, batching):
    return eqf.FedAvg(loss, eqf.OptaxServer(0.1), batching)


TABLE = {
    "nn.Conv2d": {
        **counts(lambda x: conv(x, 2, 3), name="in_channels", least=1),
        **counts(lambda x: conv(1, x, 3), name="out_channels", least=1),
        **counts(lambda x: conv(groups=x), name="groups", least=1),
        **sizes(lambda x: conv(1, 2, x), name="kernel_size"),
        **sizes(lambda x: conv(stride=x), name="stride"),
        "channels that fall into no groups": (
            lambda: conv(3, 2, 3, groups=2),
            ValueError,
            "divisible by `groups`",
        ),
        "padding by mirrors": (
            lambda: conv(padding_mode="REFLECT"),
            ValueError,
            ("pads with zeros only", "'REFLECT'"),
        ),
        "no such lowering": (
            lambda: conv(lowering="fast"),
            ValueError,
            ("`lowering`", "'fast'"),
        ),
        "an integer for a key": (
            lambda: conv(key=0),
            TypeError,
            "`key` must be one random key, got 0",
        ),
        "a number for a flag": (
            lambda: conv(use_bias=1),
            TypeError,
            "`use_bias` must be True or False, got 1",
        ),
        "channels first": (
            lambda: conv()(image(1, 8, 8)),
            ValueError,
            ("(height, width, 1)", "moveaxis"),
        ),
        "a batch": (lambda: conv()(image(4, 8, 8, 1)), ValueError, "jax.vmap"),
        "another dtype": (
            lambda: conv()(image(8, 8, 1, dtype=jnp.float16)),
            ValueError,
            "float16",
        ),
        "a small image": (
            lambda: conv()(image(2, 2, 1)),
            ValueError,
            "The kernel spans 3 x 3",
        ),
        "a list": (lambda: conv()([[1.0]]), TypeError, ("`x`", "a `list` of 1")),
    },
    "nn.LSTM": {
        **counts(lambda x: nn.LSTM(x, 2, key=KEY), name="input_size", least=1),
        **counts(lambda x: nn.LSTM(2, x, key=KEY), name="hidden_size", least=1),
        "a batch": (lambda: lstm()(image(2, 5, 3)), ValueError, "jax.vmap"),
        "another dtype": (
            lambda: lstm()(image(5, 3, dtype=jnp.float16)),
            ValueError,
            "float16",
        ),
        "a list": (lambda: lstm()([1.0]), TypeError, "`x`"),
        "no key": (
            lambda: nn.LSTM(2, 2),
            TypeError,
            "missing a required argument: 'key'",
        ),
    },
    "nn.MaxPool2d": {
        **sizes(nn.MaxPool2d, name="kernel_size"),
        "windows that overlap": (
            lambda: nn.MaxPool2d(2, 1),
            ValueError,
            ("do not overlap", "equinox.nn.MaxPool2d"),
        ),
        "a small image": (lambda: nn.MaxPool2d(4)(image(2, 2, 1)), ValueError, "4 x 4"),
    },
    "nn.AvgPool2d": {
        **sizes(nn.AvgPool2d, name="kernel_size"),
        "a list": (lambda: nn.AvgPool2d(2)([1.0]), TypeError, "`x`"),
    },
    "nn.canonicalize": {
        "nothing": (lambda: nn.canonicalize(None), TypeError, ("`model`", "None")),
        "a class": (
            lambda: nn.canonicalize(eqx.nn.Conv2d),
            TypeError,
            ("`model`", "the class `Conv2d`", "Call it first"),
        ),
        "no such lowering": (
            lambda: nn.canonicalize(MODEL, lowering="fast"),
            ValueError,
            ("`lowering`", "'fast'"),
        ),
    },
    "objectives.AbstractObjective": {
        "abstract": (lambda: objectives.AbstractObjective(), TypeError, "abstract")
    },
    "objectives.Quadratic": {
        "text": (
            lambda: objectives.Quadratic("ab", [1.0]),
            TypeError,
            ("`matrix`", "'ab'"),
        ),
        "ragged rows": (
            lambda: objectives.Quadratic([[1.0, 2.0], [3.0]], [1.0, 2.0]),
            TypeError,
            "`matrix`",
        ),
        "complex numbers": (
            lambda: objectives.Quadratic(IDENTITY * 1j, [1.0, 2.0]),
            TypeError,
            ("`matrix`", "real"),
        ),
        "nothing": (lambda: objectives.Quadratic(None, [1.0]), TypeError, "`matrix`"),
        "no square": (
            lambda: objectives.Quadratic(np.ones((2, 3)), [1.0, 2.0]),
            ValueError,
            ("square", "(2, 3)"),
        ),
        "a longer vector": (
            lambda: objectives.Quadratic(IDENTITY, np.ones(3)),
            ValueError,
            "`linear` must have shape (2,)",
        ),
        "several constants": (
            lambda: objectives.Quadratic(IDENTITY, np.ones(2), np.ones(2)),
            ValueError,
            "`constant` must be one number",
        ),
        "not symmetric": (
            lambda: objectives.Quadratic(LINES, [1.0, 2.0]),
            ValueError,
            "symmetric",
        ),
        "another dimension": (
            lambda: TWO_OPTIMA(np.ones(3)),
            ValueError,
            "a vector of length 2",
        ),
        "text for a vector": (lambda: TWO_OPTIMA("ab"), TypeError, "`x`"),
    },
    "objectives.LeastSquares": {
        "a vector": (
            lambda: objectives.LeastSquares(np.ones(2), np.ones(2)),
            ValueError,
            ("`features`", "a matrix"),
        ),
        "more targets": (
            lambda: objectives.LeastSquares(LINES, np.ones(3)),
            ValueError,
            ("`targets`", "(3,)"),
        ),
        "text": (
            lambda: objectives.LeastSquares("ab", np.ones(3)),
            TypeError,
            "`features`",
        ),
        **numbers(
            lambda x: objectives.LeastSquares(LINES, np.ones(2), l2=x), RATE, name="l2"
        ),
    },
    "objectives.LogisticRegression": {
        "other labels": (
            lambda: objectives.LogisticRegression(LINES, [1, 2]),
            ValueError,
            "`labels` must be 0 or 1",
        ),
        "negative weights": (
            lambda: objectives.LogisticRegression(LINES, [0, 1], weights=[-1.0, 1.0]),
            ValueError,
            "`weights`",
        ),
        "text for labels": (
            lambda: objectives.LogisticRegression(LINES, ["yes", "no"]),
            TypeError,
            "`labels`",
        ),
        **numbers(
            lambda x: objectives.LogisticRegression(LINES, [0, 1], l2=x),
            RATE,
            name="l2",
        ),
    },
    "objectives.FederatedProblem": {
        "nobody": (
            lambda: objectives.FederatedProblem([]),
            ValueError,
            "at least one objective",
        ),
        "a number": (
            lambda: objectives.FederatedProblem(3),
            TypeError,
            ("`objectives` must be a list", "got 3"),
        ),
        "one objective": (
            lambda: objectives.FederatedProblem(TWO_OPTIMA),
            TypeError,
            ("`objectives` must be a list", "a `Quadratic`"),
        ),
        "no objectives": (
            lambda: objectives.FederatedProblem([1, 2]),
            TypeError,
            "must hold objectives",
        ),
        "two dimensions": (
            lambda: objectives.FederatedProblem(
                [TWO_OPTIMA, objectives.Quadratic(np.eye(3), np.ones(3))]
            ),
            ValueError,
            "one dimension",
        ),
        "two kinds": (
            lambda: objectives.FederatedProblem(
                [TWO_OPTIMA, objectives.LeastSquares(LINES, np.ones(2))]
            ),
            ValueError,
            "one class",
        ),
    },
    "objectives.mean_quadratic": {
        "none": (
            lambda: objectives.mean_quadratic([]),
            ValueError,
            "at least one quadratic",
        ),
        "more weights": (
            lambda: objectives.mean_quadratic([TWO_OPTIMA], np.ones(2)),
            ValueError,
            ("`weights`", "(2,)"),
        ),
        "no weight": (
            lambda: objectives.mean_quadratic([TWO_OPTIMA], np.zeros(1)),
            ValueError,
            "`weights`",
        ),
        "one": (
            lambda: objectives.mean_quadratic(TWO_OPTIMA),
            TypeError,
            ("`quadratics`", "a `Quadratic`"),
        ),
        "numbers": (
            lambda: objectives.mean_quadratic([1.0]),
            TypeError,
            "`quadratics`",
        ),
    },
    "objectives.random_quadratics": {
        **clients(quadratics),
        "a number for a flag": (
            lambda: quadratics(2, 2, diagonal=1),
            TypeError,
            "`diagonal` must be True or False, got 1",
        ),
    },
    "objectives.random_least_squares": {
        **clients(least_squares),
        **counts(
            lambda x: least_squares(2, 2, num_examples=x), name="num_examples", least=1
        ),
        "a range that goes down": (
            lambda: least_squares(2, 2, num_examples=(5, 3)),
            ValueError,
            ("`num_examples`", "(5, 3)"),
        ),
        "more informative features": (
            lambda: least_squares(2, 2, num_informative=3),
            ValueError,
            ("`num_informative`", "got 3"),
        ),
        **numbers(lambda x: least_squares(2, 2, noise=x), RATE, name="noise"),
    },
    "objectives.random_logistic": {
        **counts(lambda x: logistic(x, 2), name="num_clients", least=1),
        "an intercept alone": (
            lambda: logistic(2, 1, intercept=True),
            ValueError,
            "counts the intercept",
        ),
        "a number for a flag": (
            lambda: logistic(2, 2, intercept=1),
            TypeError,
            "`intercept` must be True or False, got 1",
        ),
    },
    "plot.client_sizes": {
        "a model": (
            lambda: plot.client_sizes(MODEL),
            TypeError,
            ("`dataset`", "a `Linear`"),
        ),
        "nothing": (lambda: plot.client_sizes(None), TypeError, ("`dataset`", "None")),
    },
    "plot.label_distribution": {
        "a model": (
            lambda: plot.label_distribution(MODEL),
            TypeError,
            ("`dataset`", "a `Linear`"),
        ),
        "no such column": (
            lambda: plot.label_distribution(DATASET),
            ValueError,
            ("'label'", "x, y"),
        ),
        "a column of vectors": (
            lambda: plot.label_distribution(DATASET, label="x"),
            ValueError,
            ("'x'", "not one label"),
        ),
        **counts(
            lambda x: plot.label_distribution(DATASET, label="y", max_clients=x),
            name="max_clients",
            least=1,
        ),
    },
    "plot.learning_curves": {
        "a solution alone": (
            lambda: plot.learning_curves(solution(), "loss"),
            TypeError,
            ("`runs` must be a dictionary", "{'FedAvg': solution}"),
        ),
        "no runs": (
            lambda: plot.learning_curves({}, "loss"),
            ValueError,
            "at least one labelled run",
        ),
        "a number for a run": (
            lambda: plot.learning_curves({"a": 3}, "loss"),
            TypeError,
            ("'a'", "equifed.Solution"),
        ),
        "no such metric": (
            lambda: plot.learning_curves({"a": solution()}, "acc"),
            ValueError,
            "'acc'",
        ),
        "no such band": (
            lambda: plot.learning_curves({"a": solution()}, "loss", band="iqr"),
            ValueError,
            ("`band`", "'iqr'"),
        ),
        **counts(
            lambda x: plot.learning_curves({"a": solution()}, "loss", smooth=x),
            name="smooth",
            least=1,
        ),
        "a number for a flag": (
            lambda: plot.learning_curves({"a": solution()}, "loss", log=1),
            TypeError,
            "`log` must be True or False, got 1",
        ),
    },
    "plot.objective_contours": {
        "a function alone": (
            lambda: plot.objective_contours(jnp.sum),
            TypeError,
            ("`objectives` must be a dictionary", "{'client 1': f}"),
        ),
        "nothing": (
            lambda: plot.objective_contours({}),
            ValueError,
            "at least one labelled function",
        ),
        "three dimensions": (
            lambda: plot.objective_contours(
                {"a": objectives.Quadratic(np.eye(3), np.ones(3))}
            ),
            ValueError,
            ("dimension 2", "'a'"),
        ),
        "nowhere to look": (
            lambda: plot.objective_contours({"a": lambda x: x[0]}),
            ValueError,
            "limits=((x0, x1), (y0, y1))",
        ),
        "limits that go down": (
            lambda: plot.objective_contours({"a": TWO_OPTIMA}, limits=((1, 0), (0, 1))),
            ValueError,
            "`limits`",
        ),
        "text for limits": (
            lambda: plot.objective_contours({"a": TWO_OPTIMA}, limits="all"),
            EITHER,
            ("`limits`", "'all'"),
        ),
        "a number for limits": (
            lambda: plot.objective_contours({"a": TWO_OPTIMA}, limits=3),
            EITHER,
            "`limits`",
        ),
        **counts(
            lambda x: plot.objective_contours({"a": TWO_OPTIMA}, levels=x),
            name="levels",
            least=1,
        ),
        **numbers(
            lambda x: plot.objective_contours({"a": TWO_OPTIMA}, margin=x),
            POSITIVE,
            name="margin",
        ),
    },
    "plot.trajectory": {
        "three numbers": (
            lambda: plot.trajectory(np.ones((4, 3))),
            ValueError,
            ("[n, 2]", "[4, 3]"),
        ),
        "no points": (lambda: plot.trajectory(np.ones((0, 2))), ValueError, "[n, 2]"),
        "text": (lambda: plot.trajectory("ab"), TypeError, ("`points`", "'ab'")),
        "nothing": (lambda: plot.trajectory(None), TypeError, "`points`"),
    },
    "testing.Linear": counts(testing.Linear, name="num_features", least=1),
    "testing.Point": {
        "text": (lambda: testing.Point("3"), TypeError, "must be a number, got '3'"),
    },
    "testing.Quadratics": {
        "two lengths": (
            lambda: testing.Quadratics((1.0,), (1.0, 2.0), (4,)),
            ValueError,
            "one number for each client",
        ),
        "a negative curvature": (
            lambda: testing.Quadratics((-1.0,), (1.0,), (4,)),
            ValueError,
            "`curvatures` must be more than 0",
        ),
        "half an example": (
            lambda: testing.Quadratics((1.0,), (1.0,), (1.5,)),
            TypeError,
            "`num_examples` must be an integer, got 1.5",
        ),
    },
    "testing.ragged_clients": {
        "a number": (
            lambda: testing.ragged_clients(3),
            TypeError,
            ("`sizes`", "got 3"),
        ),
        "a negative size": (
            lambda: testing.ragged_clients((3, -1)),
            ValueError,
            ("`sizes`", "-1"),
        ),
        "half an example": (
            lambda: testing.ragged_clients((1.5,)),
            TypeError,
            "`sizes`",
        ),
        **seeds(lambda x: testing.ragged_clients((3,), seed=x)),
    },
    "testing.run": {
        "no function": (
            lambda: testing.run(3, num_rounds=1),
            TypeError,
            ("`make`", "got 3"),
        ),
        **counts(
            lambda x: testing.run(average, PAIR, num_rounds=x),
            name="num_rounds",
            least=0,
        ),
        "a data set for a problem": (
            lambda: testing.run(average, DATASET, num_rounds=1),
            TypeError,
            ("`problem`", "a `FederatedDataset`"),
        ),
    },
    "testing.check_reaches_optimum": {
        "no function": (
            lambda: testing.check_reaches_optimum(3),
            TypeError,
            ("`make`", "got 3"),
        ),
        "a number for a sampler": (
            lambda: testing.check_reaches_optimum(average, sampler=2),
            TypeError,
            "`sampler`",
        ),
    },
    "testing.fedavg_fixed_point": {
        "a data set": (
            lambda: testing.fedavg_fixed_point(DATASET, 0.1, [1]),
            TypeError,
            ("`problem`", "a `FederatedDataset`"),
        ),
        "text for a rate": (
            lambda: testing.fedavg_fixed_point(PAIR, "0.1", [1, 1]),
            TypeError,
            ("`learning_rate`", "'0.1'"),
        ),
    },
    "testing.check_laws": {
        "no function": (lambda: testing.check_laws(3), TypeError, ("`make`", "got 3")),
        "no such law": (
            lambda: testing.check_laws(average, skip=("gravity",)),
            ValueError,
            ("'gravity'", "permutation"),
        ),
        "a law's name alone": (
            lambda: testing.check_laws(average, skip="devices"),
            EITHER,
            "`skip`",
        ),
        "a model that is not called": (
            lambda: testing.check_laws(average, model=3),
            TypeError,
            "`model`",
        ),
        "roles of no model": (
            lambda: testing.check_laws(average, roles=eqf.roles(MODEL)),
            ValueError,
            "`roles` are those of `model`",
        ),
    },
}


def average(loss, batching):
    import optax

    return eqf.FedAvg(loss, optax.sgd(0.1), batching)
